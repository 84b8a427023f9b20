"""The colours of a decoded video frame as numbers between 0 and 1.

FFmpeg spreads the colour planes to the full size; the matrix is applied here, in float32. FFmpeg's own conversion to
RGB rounds to 8 bits, and is off by up to 3 of 255 with its default settings.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...graph.contract.errors import NodeError
from .lazy import lazy

if TYPE_CHECKING:
    import numpy
else:
    numpy = lazy("numpy")

# Weights of red and blue in luma, by the code points of ITU-T H.273, table 4; 5 and 6 are BT.601.
LUMA = {
    1: (0.2126, 0.0722),  # BT.709
    4: (0.30, 0.11),  # FCC
    5: (0.299, 0.114),
    6: (0.299, 0.114),
    7: (0.212, 0.087),  # SMPTE 240M
    9: (0.2627, 0.0593),  # BT.2020
}
BT709, UNSPECIFIED, BT601 = 1, 2, 5
LIMITED, FULL = 1, 2  # colour ranges of FFmpeg
HIGH_DEFINITION = 720  # players assume BT.709 from this height on, if the file names no matrix
# Flags of FFmpeg's scaler (libswscale/swscale.h): bilinear, colour planes in full in both directions, exact rounding.
SCALING = 0x2 | 0x2000 | 0x4000 | 0x40000 | 0x80000
DEPTHS = {  # the depths of planar formats, by kind
    "gray": (8, 9, 10, 12, 14, 16),
    "ya": (8, 16),
    "gbrp": (8, 9, 10, 12, 14, 16),
    "gbrap": (8, 10, 12, 14, 16),
    "yuv444p": (8, 9, 10, 12, 14, 16),
    "yuva444p": (8, 9, 10, 12, 16),
}


@dataclass(frozen=True)
class FrameValues:
    """Colours of a frame, float32 [H, W, 3] in [0, 1], and its opacity [H, W, 1], None if it has none."""

    colours: numpy.ndarray[Any, Any]
    alpha: numpy.ndarray[Any, Any] | None


def assumed_matrix(frame: Any) -> bool:
    """Whether a frame's colours depend on a matrix that its file does not name."""
    return _kind(frame).startswith("yuv") and frame.colorspace == UNSPECIFIED


def frame_values(frame: Any, path: Any) -> FrameValues:
    """The colours of a frame by the matrix and the range that it names.

    Without a matrix, BT.709 from 720 rows on, else BT.601, as players assume; without a range, limited for YUV.

    Raises:
        NodeError: If the frame has a format or a matrix that is not supported.
    """
    kind = _kind(frame)
    bits = min((depth for depth in DEPTHS.get(kind, ()) if depth >= frame.format.components[0].bits), default=0)
    if not bits or frame.format.is_bayer or frame.format.name.startswith("xyz"):
        raise NodeError(f"{path} has pixels of the format {frame.format.name}, which is not supported")
    name = f"{kind}{bits}" if kind == "ya" else kind if bits == 8 else f"{kind}{bits}le"
    name = "ya16le" if name == "ya16" else name
    full = frame.color_range == FULL or frame.format.name.startswith("yuvj")
    span = FULL if full else LIMITED  # the scaler must not convert the range
    planar = frame.reformat(format=name, interpolation=SCALING, src_color_range=span, dst_color_range=span)
    maximum = float(2**bits - 1)
    if kind == "ya":
        both = _plane(planar, 0, bits, 2) / maximum
        return FrameValues(numpy.repeat(both[..., :1], 3, axis=2), both[..., 1:])
    planes = [_plane(planar, index, bits, 1)[..., 0] for index in range(len(planar.planes))]
    alpha = planes[3][..., None] / maximum if len(planes) == 4 else None
    if kind.startswith("gb"):
        green, blue, red = planes[:3]
        return FrameValues(numpy.stack([red, green, blue], axis=-1) / maximum, alpha)
    if kind == "gray":
        limited = frame.color_range == LIMITED  # without a name, FFmpeg stores grey in the full range
        return FrameValues(numpy.repeat(_luma(planes[0], bits, not limited)[..., None], 3, axis=2), alpha)
    return FrameValues(_colours(planes, _weights(frame, path), bits, full), alpha)


def _kind(frame: Any) -> str:
    """The planar kind of formats that holds a frame's pixels."""
    format = frame.format
    alpha = any(component.is_alpha for component in format.components)
    if format.has_palette:
        return "gbrap"
    if format.is_rgb:
        return "gbrap" if alpha else "gbrp"
    if len(format.components) <= 2:
        return "ya" if alpha else "gray"
    return "yuva444p" if alpha else "yuv444p"


def _weights(frame: Any, path: Any) -> tuple[float, float]:
    matrix = frame.colorspace
    if matrix == UNSPECIFIED:
        matrix = BT709 if frame.height >= HIGH_DEFINITION else BT601
    if matrix not in LUMA:
        message = f"{path} has colours in the matrix {matrix} of ITU-T H.273, which is not supported"
        raise NodeError(message, help="convert the file to BT.709")
    return LUMA[matrix]


def _luma(plane: Any, bits: int, full: bool) -> Any:
    if full:
        return plane / float(2**bits - 1)
    return numpy.clip((plane - (16 << (bits - 8))) / float(219 << (bits - 8)), 0, 1)


def _colours(planes: list[Any], weights: tuple[float, float], bits: int, full: bool) -> Any:
    """Red, green and blue of planes of luma and colour differences; ITU-T H.273, equations 20 to 31 and 38 to 40."""
    red_weight, blue_weight = weights
    unit = float(2**bits - 1) if full else float(224 << (bits - 8))
    offset, scale = (0.0, float(2**bits - 1)) if full else (float(16 << (bits - 8)), float(219 << (bits - 8)))
    luma = (planes[0] - offset) / scale
    blue_difference, red_difference = ((plane - float(1 << (bits - 1))) / unit for plane in planes[1:3])
    made = numpy.empty((*luma.shape, 3), numpy.float32)
    made[..., 0] = luma + 2 * (1 - red_weight) * red_difference
    made[..., 2] = luma + 2 * (1 - blue_weight) * blue_difference
    rest = 1 - red_weight - blue_weight
    made[..., 1] = (luma - red_weight * made[..., 0] - blue_weight * made[..., 2]) / rest
    return numpy.clip(made, 0, 1, out=made)


def _plane(frame: Any, index: int, bits: int, channels: int) -> Any:
    """A plane as float32, [H, W, channels]."""
    plane, width = frame.planes[index], frame.width * channels
    dtype = numpy.dtype("u1" if bits == 8 else "<u2")
    rows = numpy.frombuffer(plane, dtype=dtype).reshape(plane.height, plane.line_size // dtype.itemsize)
    return rows[:, :width].reshape(frame.height, frame.width, channels).astype(numpy.float32)
