"""Reads an image file of any kind into colours between 0 and 1; whatever is not read as it is gives a note."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...graph.contract.errors import NodeError
from .backgrounds import colour, composited
from .bit_depths import reduced
from .colour_profiles import lab_to_rgb, profile_note, rgb_from_cmyk
from .deep_images import deep_values, misread
from .image_values import Values, values_of
from .lazy import lazy

if TYPE_CHECKING:
    import numpy
    from PIL import Image, ImageOps
else:
    numpy, Image, ImageOps = (lazy(name) for name in ("numpy", "PIL.Image", "PIL.ImageOps"))

ORIENTATION = 0x0112  # the EXIF tag
SAVE_AGAIN = "save the image again, as PNG, JPEG or WebP"
LAYERED = ("PSD",)  # Pillow counts layers as frames, and opens the whole picture


@dataclass(frozen=True)
class ReadImage:
    """An image file's content.

    Attributes:
        pixels: float32 [H, W, 3] in [0, 1].
        notes: Sentences about content that was left out or changed, for warnings.
    """

    pixels: numpy.ndarray[Any, Any]
    notes: tuple[str, ...]


def read_image(path: Path, background: str | None = None, check_finite: bool = True) -> ReadImage:
    """Read the first frame of an image file.

    Args:
        path: A file in any format that Pillow reads.
        background: Colour behind transparent pixels; None for white, with a note.
        check_finite: Raise an error for pixels that are not finite.

    Raises:
        NodeError: If the file is missing, is not an image, is incomplete or too large, or its values are not those of
            an image.
    """
    try:
        return _read(path, background, check_finite)
    except NodeError:
        raise
    except FileNotFoundError:
        raise NodeError(f"there is no file {path}") from None
    except IsADirectoryError:
        raise NodeError(f"{path} is a folder, not an image") from None
    except Image.UnidentifiedImageError:
        raise NodeError(
            f"{path} cannot be read as an image: it has no format that Pillow knows", help=SAVE_AGAIN
        ) from None
    except Image.DecompressionBombError as error:
        raise NodeError(f"{path} is too large for an image: {error}", help="make the image smaller") from None
    except MemoryError:
        raise
    except Exception as error:  # Pillow's plugins raise errors of many classes for broken files
        raise NodeError(f"{path} cannot be read as an image: {_reason(error)}", help=SAVE_AGAIN) from None


def _read(path: Path, background: str | None, check_finite: bool) -> ReadImage:
    notes: list[str] = []
    with Image.open(path) as opened:
        if min(opened.size) < 1:
            raise NodeError(f"{path} has no pixels: its size is {opened.width}x{opened.height}")
        is_reduced = reduced(opened, path)
        orientation = _orientation(opened, notes, path)
        opened.load()
        image = ImageOps.exif_transpose(opened) if orientation is not None else opened.copy()
        values = _values(image, opened, notes, path, check_finite)
        if is_reduced:
            deep = None if image.mode in ("CMYK", "LAB") else deep_values(path, orientation or 1, opened, values)
            if deep is None and misread(opened):
                message = f"{path} has more than 8 bits in each channel, in a form that cannot be read"
                raise NodeError(message, help="save the image as a PNG of 16 bits")
            if deep is None:
                notes.append(f"{path} has more than 8 bits in each channel; 8 of them are read")
            values = deep or values
        notes += _frames_note(opened, path)
    if values.alpha is not None and values.alpha.min() < 1 and background is None:
        notes.append(
            f"{path} has transparent pixels, which are put on white; `background` of image.load chooses the colour"
        )
    return ReadImage(composited(values.colours, values.alpha, colour(background), values.premultiplied), tuple(notes))


def _values(image: Image.Image, opened: Any, notes: list[str], path: Path, check_finite: bool) -> Values:
    if image.mode in ("CMYK", "LAB"):
        image, note = rgb_from_cmyk(image, path) if image.mode == "CMYK" else (lab_to_rgb(image), None)
    else:
        note = profile_note(image, path)
    notes += [note] if note else []
    return values_of(image, opened, path, check_finite)


def _orientation(opened: Any, notes: list[str], path: Path) -> int | None:
    """The EXIF orientation, 1 to 8; None if it cannot be read. Pillow turns TIFF files itself when it loads them."""
    try:
        found = opened.getexif().get(ORIENTATION, 1)
    except Exception as error:
        notes.append(f"the EXIF data of {path} cannot be read, so the image is not turned: {_reason(error)}")
        return None
    return found if found in range(1, 9) else 1


def _frames_note(opened: Any, path: Path) -> list[str]:
    try:
        count = getattr(opened, "n_frames", 1)
    except Exception:
        return [f"{path} has more than one frame, and those after the first cannot be read"]
    if count < 2 or opened.format in LAYERED:
        return []
    if opened.format in ("TIFF", "MPO"):
        return [f"{path} holds {count} images; the first is loaded"]
    all_frames = (
        "; convert it to a video for the others" if opened.format == "WEBP" else "; video.load loads all of them"
    )
    return [f"{path} is animated: it has {count} frames, and the first is loaded{all_frames}"]


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error) or type(error).__name__
