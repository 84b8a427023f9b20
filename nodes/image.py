"""`image.load` and `image.save`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from ..graph.contract.diagnostics import Diagnostic
from ..graph.contract.errors import NodeError
from ..graph.contract.facts import NodeFacts, require
from ..graph.contract.node import OutPath, Run, node
from .support.finite import OFF
from .support.input_files import file_problems, require_file
from .support.lazy import lazy
from .support.path_names import numbered, written
from .support.pixels import from_bytes, to_bytes
from .value_facts import FramesFacts
from .values import File, Frames

if TYPE_CHECKING:
    import numpy
    from PIL import Image as Pillow
else:
    numpy = lazy("numpy")

FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}


@dataclass(frozen=True, kw_only=True)
class ImageSaveFacts(NodeFacts):
    """Facts of `image.save`."""

    frames: FramesFacts = FramesFacts()
    path: str | None = None
    frame: int | None = None
    quality: int | None = None


def _check_save(facts: ImageSaveFacts) -> Iterator[Diagnostic]:
    if facts.path is None:
        return
    suffix = Path(facts.path).suffix.lower()
    if suffix not in FORMATS:
        message = f"no image format has the extension {suffix!r}" if suffix else "the file name has no extension"
        yield Diagnostic("bad-value", message, "path", help=f"use one of {', '.join(FORMATS)}")
    elif facts.quality is not None and suffix == ".png":
        message = "PNG is lossless and has no quality setting"
        yield Diagnostic("bad-value", message, "quality", help="leave `quality` out, or use .webp")


@node("image.save", effect=True, check=_check_save)
def save(
    run: Run,
    frames: Frames,
    path: OutPath,
    *,
    frame: int | None = None,
    quality: Annotated[int | None, Field(ge=1, le=100)] = None,
) -> list[File]:
    """Save one frame of each clip as an image: PNG, JPEG or WebP.

    One clip gets the given name. Several clips get the name with -0, -1, … before the extension.

    Args:
        frames: Frames in [0, 1], [B, F, H, W, 3]; F is 1 for images.
        path: File name ending in .png, .jpg, .jpeg or .webp.
        frame: Number of the frame, from 0; -1 is the last one. Required if there are several frames.
        quality: 1 to 100, for JPEG and WebP. Without it, 95.

    Returns:
        One file per image.

    Raises:
        NodeError: If there are several frames and no `frame`, no frame has this number, the extension is unknown,
            or the file cannot be written.
    """
    require(_check_save, ImageSaveFacts(path=str(path), quality=quality))
    from PIL import Image

    count = frames.tensor.shape[1]
    if frame is None and count > 1:
        raise NodeError(
            f"there are {count} frames, but an image has one",
            help="choose one with `frame`, or lay them out with frames.grid",
        )
    index = frame or 0
    if not -count <= index < count:
        raise NodeError(f"there is no frame {index}: the clip has {count}")
    format = FORMATS[Path(path).suffix.lower()]
    options = {} if format == "PNG" else {"quality": quality or 95}
    files = []
    for clip, name in zip(frames.tensor, numbered(path, len(frames.tensor)), strict=True):
        target = run.output(name)
        with written(run, target) as part:
            Image.fromarray(to_bytes(clip[index])).save(part, format=format, **options)
        files.append(File(target))
    return files


@dataclass(frozen=True, kw_only=True)
class ImageLoadFacts(NodeFacts):
    """Facts of `image.load`."""

    path: str | None = None


def _check_load(facts: ImageLoadFacts) -> Iterator[Diagnostic]:
    yield from file_problems(facts.path)


@node("image.load", check=_check_load)
def load(run: Run, path: Path) -> Frames:
    """Load an image.

    Args:
        path: A file in any format that Pillow reads. Its EXIF orientation is applied; transparency becomes white.

    Returns:
        A clip of one frame: float32 in [0, 1], [1, 1, H, W, 3], on the run's device.

    Raises:
        NodeError: If the file is missing, is not an image, or has pixels that are not finite.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    require_file(path)
    try:
        with Image.open(path) as opened:
            image = ImageOps.exif_transpose(opened)
            require_finite(run, path, image)
            if image.has_transparency_data:
                image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
            pixels = numpy.asarray(image.convert("RGB"))
    except (UnidentifiedImageError, OSError) as error:
        raise NodeError(f"{path} cannot be read as an image: {error}") from None
    return Frames(from_bytes(pixels)[None, None].to(run.device))


def require_finite(run: Run, path: Path, image: Pillow.Image) -> None:
    """Raise a NodeError if a pixel is NaN or infinite, before the pixels become whole numbers.

    Only an image of floating-point numbers (Pillow's mode F, in TIFF files) can have such pixels.
    """
    if image.mode != "F" or run.options.get(OFF):
        return
    finite = numpy.isfinite(numpy.asarray(image))
    if not finite.all():
        message = f"{int((~finite).sum())} of {finite.size} pixels of {path} are NaN or infinite"
        raise NodeError(message, help="make the file again; --no-check-finite switches this check off")
