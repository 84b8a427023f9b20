"""The times of a video's frames: the frame rate, whether it varies, and frames at an even rate."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import TypeVar

T = TypeVar("T")

VARIES = Fraction(1, 10)  # of the mean duration: smaller differences give no warning


@dataclass(frozen=True)
class Shown:
    """When a frame is shown, in seconds; the duration is None if the file does not give it."""

    time: Fraction
    duration: Fraction | None


@dataclass(frozen=True)
class Rate:
    """A frame rate.

    Attributes:
        fps: Frames per second, on average; None if the times do not give it.
        shortest: Seconds of the frame that is shown for the shortest time.
        longest: The same for the longest time.
        varies: Whether frames are shown for different times.
    """

    fps: Fraction | None
    shortest: Fraction = Fraction(0)
    longest: Fraction = Fraction(0)
    varies: bool = False


def rate(frames: Sequence[Shown], tick: Fraction) -> Rate:
    """The rate of frames in order.

    Args:
        frames: The frames.
        tick: The unit of their times; each is rounded to it.
    """
    if not frames:
        return Rate(None)
    lengths = [after.time - before.time for before, after in pairwise(frames)]
    last = frames[-1].duration
    mean = sum(lengths, Fraction(0)) / len(lengths) if lengths else last
    if mean is None or mean <= 0:
        return Rate(None)
    # Some writers give the last frame no duration, or one tick.
    if last is not None and last > mean * (1 + VARIES) + tick:
        lengths.append(last)
        mean = sum(lengths, Fraction(0)) / len(lengths)
    shortest, longest = min(lengths, default=mean), max(lengths, default=mean)
    varies = max(longest - mean, mean - shortest) > VARIES * mean + tick
    return Rate(1 / mean, shortest, longest, varies)


def resampled(frames: Iterable[tuple[Shown, T]], fps: Fraction, tick: Fraction) -> Iterator[T]:
    """The frame that is shown at each of the times 0, 1 / fps, 2 / fps, … after the first frame."""
    index, start, before = 0, Fraction(0), None
    for shown, frame in frames:
        if before is None:
            start = shown.time
        else:
            # The time of a frame may be rounded by half a tick.
            while index / fps + tick / 2 < shown.time - start:
                yield before[1]
                index += 1
        before = (shown, frame)
    if before is not None:
        shown, frame = before
        end = shown.time - start + (shown.duration or 1 / fps)
        while index == 0 or index / fps + tick / 2 < end:
            yield frame
            index += 1
