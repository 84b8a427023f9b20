"""The values of a Pillow image as numbers between 0 and 1: each value over the maximum of its format."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...graph.contract.errors import NodeError
from .bit_depths import BITS, jpeg2000_bits, signed, tags
from .lazy import lazy

if TYPE_CHECKING:
    import numpy
    from PIL import Image
else:
    numpy, Image = lazy("numpy"), lazy("PIL.Image")

PHOTOMETRIC = 262  # a tag of TIFF 6.0
SIXTEEN_BITS = 65535
WIDE_FORMATS = ("PNG", "PPM")  # Pillow scales their deep values to 16 bits


@dataclass(frozen=True)
class Values:
    """Colours and opacity of an image.

    Attributes:
        colours: float32 [H, W, 3] in [0, 1].
        alpha: Opacity, float32 [H, W, 1] in [0, 1]; None if the image has none.
        premultiplied: The colours are already multiplied by the opacity.
    """

    colours: numpy.ndarray[Any, Any]
    alpha: numpy.ndarray[Any, Any] | None = None
    premultiplied: bool = False


def values_of(image: Image.Image, opened: Any, path: Path, check_finite: bool) -> Values:
    """The values of `image`, in any mode but CMYK and LAB.

    Args:
        image: The image, turned upright.
        opened: The same image as Pillow opened it, with the properties of its file.
        path: The file's name, for errors.
        check_finite: Raise an error for numbers that are not finite.

    Raises:
        NodeError: If values lie outside of the range of an image, or their range is not known.
    """
    if image.mode in ("F", "I") or image.mode.startswith("I;16") or (image.mode == "L" and signed(opened)):
        return _single_channel(image, opened, path, check_finite)
    if image.has_transparency_data:
        pixels = numpy.asarray(image.convert("RGBA"))
        return Values(_scaled(pixels[..., :3], 255), _scaled(pixels[..., 3:], 255))
    return Values(_scaled(numpy.asarray(image.convert("RGB")), 255))


def _single_channel(image: Image.Image, opened: Any, path: Path, check_finite: bool) -> Values:
    """Grey images of 16 or 32 bits, of signed numbers, or of floating-point numbers."""
    pixels, alpha = numpy.asarray(image), None
    if image.mode == "F":
        scaled = pixels.astype(numpy.float32)
        finite = numpy.isfinite(scaled)
        if check_finite and not finite.all():
            message = f"{int((~finite).sum())} of {finite.size} pixels of {path} are NaN or infinite"
            raise NodeError(message, help="make the file again")
    else:
        bits = tags(opened, BITS, 16)[0]
        if signed(opened) and bits == 8:
            pixels = pixels.view(numpy.int8)
        elif opened.format == "TIFF" and image.mode == "I" and not signed(opened):
            pixels = pixels.view(numpy.uint32)  # Pillow reads 32 unsigned bits as a signed number
        transparent = image.info.get("transparency")
        if isinstance(transparent, int):
            alpha = (pixels != transparent)[..., None].astype(numpy.float32)
        scaled = (pixels / _maximum(image, opened, path)).astype(numpy.float32)
    low, high = (float(found(scaled, where=numpy.isfinite(scaled), initial=0.5)) for found in (numpy.min, numpy.max))
    if low < 0 or high > 1:
        message = f"{path} has values from {low:.6g} to {high:.6g}, but those of an image lie between 0 and 1"
        raise NodeError(message, help="scale the values of the file to 0 … 1")
    if image.mode != "L" and tags(opened, PHOTOMETRIC, 1)[0] == 0:  # zero is white; Pillow inverts 8 bits only
        scaled = 1 - scaled
    return Values(numpy.repeat(scaled[..., None], 3, axis=2), alpha)


def _maximum(image: Image.Image, opened: Any, path: Path) -> int:
    """The largest value of a format of whole numbers."""
    if opened.format == "TIFF":
        return int(2 ** (tags(opened, BITS, 16)[0] - signed(opened)) - 1)
    if opened.format == "JPEG2000":
        bits = jpeg2000_bits(path)
        return (2**bits - 1) << (16 - bits)  # Pillow shifts the values to 16 bits
    if image.mode == "I" and opened.format not in WIDE_FORMATS:
        message = f"{path} has whole numbers of 32 bits, and {opened.format} does not give their maximum"
        raise NodeError(message, help="save the image as a PNG of 16 bits")
    return SIXTEEN_BITS


def _scaled(pixels: numpy.ndarray[Any, Any], maximum: int) -> numpy.ndarray[Any, Any]:
    return pixels.astype(numpy.float32) / numpy.float32(maximum)
