"""`image.load` and `image.save`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from ..graph.contract.diagnostics import Diagnostic
from ..graph.contract.errors import NodeError
from ..graph.contract.facts import NodeFacts, require
from ..graph.contract.node import OutPath, Run, node
from .support.backgrounds import colour_problem
from .support.image_reading import read_image
from .support.input_files import file_problems
from .support.lazy import lazy
from .support.path_names import numbered, written
from .support.pixels import to_bytes
from .support.recipe_places import recipe_options
from .value_facts import FramesFacts
from .values import File, Frames

if TYPE_CHECKING:
    import torch
else:
    torch = lazy("torch")

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

    One clip gets the given name. Several clips get the name with -0, -1, … before the extension. The file carries the
    recipe of the run, unless `--no-metadata` is given (docs/made-again.md).

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
    options: dict[str, Any] = {} if format == "PNG" else {"quality": quality or 95}
    options |= recipe_options(format, run.recipe(), run)
    files = []
    for clip, name in zip(frames.tensor.unbind(), numbered(path, len(frames.tensor)), strict=True):
        target = run.output(name)
        with written(run, target) as part:
            Image.fromarray(to_bytes(clip[index])).save(part, format=format, **options)
        files.append(File(target))
    return files


@dataclass(frozen=True, kw_only=True)
class ImageLoadFacts(NodeFacts):
    """Facts of `image.load`."""

    path: str | None = None
    background: str | None = None


def _check_load(facts: ImageLoadFacts) -> Iterator[Diagnostic]:
    yield from file_problems(facts.path)
    yield from colour_problem(facts.background)


@node("image.load", check=_check_load)
def load(run: Run, path: Path, *, background: str | None = None) -> Frames:
    """Load an image: each value over the maximum of the file's format, so 16 bits keep their precision.

    The image is turned as its EXIF data say. A palette becomes colours, grey becomes three equal channels. These give
    a warning: transparent pixels, which are put on white; an animation, of which the first frame is loaded; CMYK,
    unless the file has a colour profile; another colour profile than sRGB, which is not applied; a file with more than
    8 bits in each channel of which only 8 can be read.

    Args:
        path: A file in any format that Pillow reads.
        background: Colour behind transparent pixels, `#rrggbb` or a CSS name such as `black`. Without it, white, with
            a warning.

    Returns:
        A clip of one frame: float32 in [0, 1], [1, 1, H, W, 3], on the run's device.

    Raises:
        NodeError: If the file is missing, is not an image, is incomplete or too large, or has values that are not
            finite or lie outside of 0 to 1; or if `background` is not a colour.
    """
    require(_check_load, ImageLoadFacts(path=str(path), background=background))
    read = read_image(path, background, check_finite=not run.options.get("no_check_finite"))
    for note in read.notes:
        run.warn(note, "path")
    return Frames(torch.from_numpy(read.pixels)[None, None].to(run.device))
