"""Images with more than 8 bits in each of several channels, which Pillow reduces to 8; FFmpeg reads them whole."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .bit_depths import tags
from .image_values import SIXTEEN_BITS, Values
from .lazy import lazy

if TYPE_CHECKING:
    import av
    import numpy
else:
    av, numpy = lazy("av"), lazy("numpy")

CHANNELS = {"gray16": 1, "ya16": 2, "rgb48": 3, "rgba64": 4}  # FFmpeg's formats with one plane
PLANES = {"gbrp16": (2, 0, 1), "gbrap16": (2, 0, 1, 3)}  # positions of red, green, blue and alpha
PLANAR_CONFIGURATION, TILE_WIDTH, EXTRA_SAMPLES = 284, 322, 338  # tags of TIFF 6.0
APART, PREMULTIPLIED = 2, 1  # values of the first and the last
DIFFERENCE = 2 / 255  # the largest that reducing and rounding explain
TURNS = {  # EXIF orientation: axes swapped, rows reversed, columns reversed
    2: (False, False, True),
    3: (False, True, True),
    4: (False, True, False),
    5: (True, False, False),
    6: (True, False, True),
    7: (True, True, True),
    8: (True, True, False),
}


def deep_values(path: Path, orientation: int, opened: Any, shallow: Values) -> Values | None:
    """All bits of an image, in 16-bit formats of FFmpeg.

    Args:
        path: The file.
        orientation: Its EXIF orientation.
        opened: The image as Pillow opened it.
        shallow: The 8-bit values that Pillow read, turned upright. They guard against a file that FFmpeg misreads.

    Returns:
        None if FFmpeg does not read the file, or reads other colours than Pillow.
    """
    if tags(opened, TILE_WIDTH, 0)[0]:
        return None  # FFmpeg reads the tiles of a TIFF file as rows
    try:
        with av.open(io.BytesIO(path.read_bytes())) as container:
            frame = next(container.decode(video=0))
            stored = _stored(frame)
    except (av.error.FFmpegError, StopIteration, IndexError, ValueError):
        return None
    if stored is None:
        return None
    pixels = _upright(stored.astype(numpy.float32) / numpy.float32(SIXTEEN_BITS), orientation)
    channels = pixels.shape[2]
    colours = pixels[..., :3] if channels > 2 else numpy.repeat(pixels[..., :1], 3, axis=2)
    transparent = shallow.alpha is not None or isinstance(opened.info.get("transparency"), tuple)
    alpha = pixels[..., -1:] if channels in (2, 4) and transparent else None
    premultiplied = alpha is not None and PREMULTIPLIED in tags(opened, EXTRA_SAMPLES, 0)
    made = Values(colours, alpha, premultiplied)
    return made if planes_apart(opened) or _agree(made, shallow, opened) else None


def planes_apart(opened: Any) -> bool:
    """Whether a TIFF file stores each channel in its own plane; Pillow misreads such planes of 16 bits."""
    return tags(opened, PLANAR_CONFIGURATION, 1)[0] == APART


def misread(opened: Any) -> bool:
    """Whether Pillow reads other colours than a file of more than 8 bits holds, so that only FFmpeg can read it."""
    return planes_apart(opened) or opened.format == "JPEG2000"


def _stored(frame: Any) -> Any:
    """The numbers of a frame, [H, W, channels]; None in another format."""
    name = frame.format.name.removesuffix("le").removesuffix("be")
    dtype = ">u2" if frame.format.name.endswith("be") else "<u2"
    if name in CHANNELS:
        return _plane(frame, 0, CHANNELS[name], dtype)
    if name in PLANES:
        return numpy.concatenate([_plane(frame, plane, 1, dtype) for plane in PLANES[name]], axis=2)
    return None


def _plane(frame: Any, index: int, channels: int, dtype: str) -> Any:
    plane = frame.planes[index]
    rows = numpy.frombuffer(plane, dtype=dtype).reshape(plane.height, plane.line_size // 2)
    return rows[:, : frame.width * channels].reshape(frame.height, frame.width, channels)


def _upright(pixels: Any, orientation: int) -> Any:
    swapped, rows, columns = TURNS.get(orientation, (False, False, False))
    if swapped:
        pixels = pixels.swapaxes(0, 1)
    return numpy.ascontiguousarray(pixels[:: -1 if rows else 1, :: -1 if columns else 1])


def _agree(deep: Values, shallow: Values, opened: Any) -> bool:
    if deep.colours.shape != shallow.colours.shape:
        return False
    # Pillow compares a transparent colour of 16 bits with colours of 8 bits.
    if not isinstance(opened.info.get("transparency"), tuple):
        if (deep.alpha is None) != (shallow.alpha is None):
            return False
        if deep.alpha is not None and numpy.abs(deep.alpha - shallow.alpha).max() > DIFFERENCE:
            return False
    # Pillow divides premultiplied colours by the opacity, which enlarges the rounding.
    difference = numpy.abs(deep.colours - shallow.colours)
    if opened.format == "JPEG2000":  # Pillow rounds white up, to 256, which is black
        difference = numpy.minimum(difference, 1 - difference)
    return deep.premultiplied or bool(difference.max() <= DIFFERENCE)
