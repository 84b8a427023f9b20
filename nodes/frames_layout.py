"""`frames.grid` (clips side by side on one image) and `frames.concat` (clips one after the other)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from ..graph.contract.diagnostics import Diagnostic
from ..graph.contract.errors import NodeError
from ..graph.contract.facts import NodeFacts, require
from ..graph.contract.node import NO_RUN, Run, node
from .support import frame_labels
from .support.lazy import lazy
from .value_facts import FramesFacts
from .values import Frames, Size

if TYPE_CHECKING:
    import torch
else:
    torch = lazy("torch")

Natural = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]


def _sizes(frames: Sequence[FramesFacts]) -> Iterator[Diagnostic]:
    """Report clips of different widths or heights."""
    known = [(number, facts.size) for number, facts in enumerate(frames, 1) if facts.size is not None]
    for number, size in known[1:]:
        first, other = known[0]
        if (size.width, size.height) != (other.width, other.height):
            message = (
                f"clip {number} has {size.width}x{size.height} pixels, and clip {first} {other.width}x{other.height}"
            )
            yield Diagnostic("bad-value", message, "frames", help="all clips must have one width and one height")
            return


@dataclass(frozen=True, kw_only=True)
class FramesGridFacts(NodeFacts):
    """Facts of `frames.grid`."""

    frames: tuple[FramesFacts, ...] = ()
    labels: tuple[str, ...] | None = None
    columns: int | None = None
    every: int | None = None
    gap: int | None = None


def _check_grid(facts: FramesGridFacts) -> Iterator[Diagnostic]:
    if facts.columns is not None and facts.every is not None:
        message = "`columns` and `every` both choose the frames: give one"
        yield Diagnostic("bad-value", message, "every")
    yield from _sizes(facts.frames)
    counts = [each.batch for each in facts.frames]
    if facts.labels is not None and counts and all(count is not None for count in counts):
        clips, labels = sum(count for count in counts if count is not None), len(facts.labels)
        if clips != labels:
            message = f"there {_are(labels, 'label')} and {clips} {'clip' if clips == 1 else 'clips'}"
            yield Diagnostic("bad-value", message, "labels", help="give one label for each clip, in their order")


def _are(count: int, noun: str) -> str:
    return f"is 1 {noun}" if count == 1 else f"are {count} {noun}s"


@node("frames.grid", check=_check_grid)
def grid(
    frames: list[Frames],
    *,
    labels: list[str] | None = None,
    columns: Positive | None = None,
    every: Positive | None = None,
    gap: Natural = 4,
    run: Run = NO_RUN,
) -> Frames:
    """Lay clips out on a contact sheet: one row for each clip, time from left to right.

    Clips of one frame are images: `columns` of them stand in a row. All clips have one width and height. They may have
    different numbers of frames; a shorter row ends in white.

    Args:
        frames: Clips in [0, 1], each [B, F, H, W, 3]: one value, several, or the output of a loop.
        labels: Text above each clip, in black on white. Text that is wider than the clip is cut.
        columns: Number of frames for each clip, evenly spaced from the first to the last; by default at most 8. For
            images, the number of images in a row; by default 1.
        every: Show every n-th frame instead, starting with the first.
        gap: White pixels between and around the frames.

    Returns:
        One image, [1, 1, H, W, 3].

    Raises:
        NodeError: If there is no clip, both `columns` and `every` are given, the clips differ in width or height, or
            the number of labels is not that of the clips.
    """
    _not_empty(frames)
    known = tuple(_facts(each) for each in frames)
    given = tuple(labels) if labels is not None else None
    require(_check_grid, FramesGridFacts(frames=known, labels=given, columns=columns, every=every))
    clips = [clip for each in frames for clip in each.tensor]
    are_images = columns is not None and all(len(clip) == 1 for clip in clips)
    per_row = columns if are_images and columns is not None else 1
    shown = [clip[_chosen(len(clip), columns, every)] for clip in clips]
    _, _, height, width, channels = frames[0].tensor.shape
    above = frame_labels.strip_height(height) if labels is not None else 0
    rows = [range(first, min(first + per_row, len(clips))) for first in range(0, len(clips), per_row)]
    cells = max(sum(len(shown[number]) for number in row) for row in rows)
    size = (len(rows) * (above + height + gap) + gap, cells * (width + gap) + gap)
    like = frames[0].tensor
    sheet = torch.ones((1, 1, *size, channels), dtype=like.dtype, device=like.device)
    for place, row in enumerate(rows):
        top, left = gap + place * (above + height + gap), gap
        for number in row:
            across = len(shown[number]) * (width + gap) - gap
            if labels is not None:
                label = frame_labels.drawn(labels[number], across, height)
                sheet[0, 0, top : top + above, left : left + across] = label.to(like)
            for image in shown[number]:
                sheet[0, 0, top + above : top + above + height, left : left + width] = image.to(like)
                left += width + gap
    if labels is not None and (lacking := frame_labels.undrawable("".join(labels))):
        run.warn(f"the font for labels has no {' '.join(lacking)}: boxes are drawn instead", "labels")
    return Frames(sheet)


def _chosen(count: int, columns: int | None, every: int | None) -> list[int]:
    """The numbers of the frames of a clip that a sheet shows."""
    if every is not None:
        return list(range(0, count, every))
    cells = min(columns or 8, count)
    return [round(i * (count - 1) / (cells - 1)) for i in range(cells)] if cells > 1 else [0]


def _not_empty(frames: Sequence[Frames]) -> None:
    if not frames:
        raise NodeError("there are no clips", help="give `frames` at least one")


def _facts(frames: Frames) -> FramesFacts:
    batch, count, height, width, _ = frames.tensor.shape
    return FramesFacts(Size(width, height, count), batch)


@dataclass(frozen=True, kw_only=True)
class FramesConcatFacts(NodeFacts):
    """Facts of `frames.concat`."""

    frames: tuple[FramesFacts, ...] = ()


def _check_concat(facts: FramesConcatFacts) -> Iterator[Diagnostic]:
    yield from _sizes(facts.frames)
    counts = {each.batch: number for number, each in enumerate(facts.frames, 1) if each.batch is not None}
    if len(counts) > 1:
        text = " and ".join(f"value {number} has {count}" for count, number in counts.items())
        message = f"the values have different numbers of clips: {text}"
        yield Diagnostic("bad-value", message, "frames", help="each clip is joined with the clip of its number")


def _describe_concat(facts: FramesConcatFacts) -> FramesFacts:
    sizes = [each.size for each in facts.frames if each.size is not None]
    if not sizes or len(sizes) != len(facts.frames):
        return FramesFacts()
    return FramesFacts(replace(sizes[0], frames=sum(size.frames for size in sizes)), facts.frames[0].batch)


@node("frames.concat", check=_check_concat, describe=_describe_concat)
def concat(frames: list[Frames]) -> Frames:
    """Join clips in time: the frames of the first, then those of the second, and so on.

    With several clips in each value, each clip is joined with the clip of its number. The rate of frames is a matter of
    `video.save`.

    Args:
        frames: Clips in [0, 1], each [B, F, H, W, 3], of one width, height and B: several values, or the output of a
            loop.

    Returns:
        Clips of all frames, [B, F, H, W, 3].

    Raises:
        NodeError: If there is no clip, or the clips differ in width, height or number.
    """
    _not_empty(frames)
    require(_check_concat, FramesConcatFacts(frames=tuple(_facts(each) for each in frames)))
    like = frames[0].tensor
    return Frames(torch.cat([each.tensor.to(like) for each in frames], dim=1))
