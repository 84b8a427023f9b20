"""Reads a video file into colours between 0 and 1; whatever is not read as players show it gives a note."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...graph.contract.errors import NodeError
from .backgrounds import colour, composited
from .frame_times import Rate, Shown, rate, resampled
from .lazy import lazy
from .video_notes import display_turn, frame_notes
from .video_pixels import frame_values

if TYPE_CHECKING:
    import av
    import numpy
else:
    av, numpy = lazy("av"), lazy("numpy")

SECOND = 1_000_000  # FFmpeg's unit for the duration of a container
SAME_RATE = Fraction(1, 1000)
PLAYLISTS = (b"#EXTM3U", b"ffconcat", b"v=0")  # of HLS, FFmpeg's concat and SDP
MISSING = Fraction(3, 2)  # frames that may lack at the end without a note


@dataclass(frozen=True)
class ReadVideo:
    """Frames of a video file.

    Attributes:
        pixels: float32 [F, H, W, 3] in [0, 1], turned upright.
        fps: Frames per second; 0 if the file does not give it.
        notes: Sentences about content that was left out or changed, for warnings.
    """

    pixels: numpy.ndarray[Any, Any]
    fps: float
    notes: tuple[str, ...]


@dataclass
class _Reading:
    """The state of reading one file."""

    path: Path
    container: Any
    stream: Any
    tick: Fraction
    notes: list[str] = field(default_factory=list)
    times: list[Shown] = field(default_factory=list)
    packets: int = 0
    damaged: bool = False
    finished: bool = False


def read_video(path: Path, first: int, count: int | None, fps: float | None, background: str | None) -> ReadVideo:
    """Read frames of a video file.

    Args:
        path: Any format that FFmpeg reads.
        first: Number of the first frame to take, from 0.
        count: Number of frames to take; None for all.
        fps: Frames per second to resample to; None for the frames of the file.
        background: Colour behind transparent pixels; None for white, with a note.

    Raises:
        NodeError: If the file is missing, is not a video, is damaged, or has fewer frames than requested.
    """
    with _open(path) as reading:
        return _read(reading, first, count, fps, background)


def frames_of(path: Path) -> Iterator[numpy.ndarray[Any, Any]]:
    """Each frame of a video file, one in memory at a time: float32 [H, W, 3] in [0, 1], turned upright, on white.

    Raises:
        NodeError: If the file is missing, is not a video, or is damaged.
    """
    with _open(path) as reading:
        for index, (_, frame) in enumerate(_decoded(reading)):
            if frame.is_corrupt:
                raise _damaged(reading, 0, index, "its data are damaged")
            yield _upright_colours(reading, frame, "white")


@contextmanager
def _open(path: Path) -> Iterator[_Reading]:
    """The first video stream of a file. Errors of reading it are `NodeError`s."""
    if path.is_dir():
        raise NodeError(f"{path} is a folder, not a video")
    try:
        with path.open("rb") as file:
            head = file.read(16)
        if head.lstrip(b"\xef\xbb\xbf").startswith(PLAYLISTS):
            raise NodeError(f"{path} is a playlist, not a video", help="give the file of the video")
        if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
            raise NodeError(f"{path} is a WebP file, which cannot be read as a video", help="convert it to GIF or MP4")
        options = {"protocol_whitelist": "file"}  # a file must not lead to other machines
        with av.open(str(path), options=options, metadata_errors="replace") as container:
            yield _opened(path, container)
    except FileNotFoundError:
        raise NodeError(f"there is no file {path}") from None
    except (av.error.FFmpegError, OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        help = "give a video, or convert the file to MP4"
        raise NodeError(f"{path} cannot be read as a video: {reason}", help=help) from None


def _opened(path: Path, container: Any) -> _Reading:
    from av.stream import Disposition

    streams = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
    if not streams:
        other = " (it has sound)" if container.streams.audio else ""
        raise NodeError(f"{path} has no video stream{other}")
    stream = max(streams, key=lambda each: each.frames)  # an AVIF file holds a still image beside its animation
    stream.thread_type = "AUTO"
    reading = _Reading(path, container, stream, Fraction(stream.time_base or Fraction(1, SECOND)))
    if len(streams) > 1:
        reading.notes.append(f"{path} has {len(streams)} video streams; stream {stream.index} is loaded")
    return reading


def _read(reading: _Reading, first: int, count: int | None, fps: float | None, background: str | None) -> ReadVideo:
    frames: Iterator[tuple[Shown, Any]] = _decoded(reading)
    if fps is not None:
        wanted = Fraction(fps).limit_denominator(1001)
        frames = ((Shown(Fraction(0), None), frame) for frame in resampled(frames, wanted, reading.tick))
    taken: list[Any] = []
    times: list[Shown] = []
    for shown, frame in itertools.islice(frames, first, None if count is None else first + count):
        if frame.is_corrupt:
            raise _damaged(reading, first, len(taken), "its data are damaged")
        taken.append(_upright_colours(reading, frame, background))
        times.append(shown)
        if taken[-1].shape != taken[0].shape:
            message = f"{reading.path} changes its size at frame {first + len(taken) - 1}"
            raise NodeError(message, help=f"load the frames before it with `count: {len(taken) - 1}`")
    if not taken or (count is not None and len(taken) < count):
        missing = f"no frame {first}" if count is None else f"fewer than {count} frames from frame {first} on"
        raise NodeError(f"{reading.path} has {missing}")
    if reading.finished:
        _note_end(reading)
    measured = rate(times, reading.tick) if fps is None else Rate(Fraction(fps))
    if measured.varies:
        low, high = (f"{float(length):.3g}" for length in (measured.shortest, measured.longest))
        reading.notes.append(
            f"the frame rate of {reading.path} varies: frames are shown for {low} to {high} seconds. All frames are "
            f"loaded without their times; `fps` of video.load takes frames at an even rate"
        )
    notes = tuple(dict.fromkeys(reading.notes))
    return ReadVideo(_stacked(taken), fps or _named_rate(reading, measured, len(taken)), notes)


def _decoded(reading: _Reading) -> Iterator[tuple[Shown, Any]]:
    """Each frame of the stream with its time."""
    for packet in reading.container.demux(reading.stream):
        reading.packets += packet.dts is not None or packet.size > 0
        reading.damaged |= packet.is_corrupt
        try:
            frames = packet.decode()
        except av.error.FFmpegError as error:
            raise _damaged(reading, 0, len(reading.times), str(error.strerror)) from None
        for frame in frames:
            index = len(reading.times)
            step = 1 / Fraction(reading.stream.average_rate or reading.stream.guessed_rate or 25)
            time = index * step if frame.pts is None else frame.pts * Fraction(frame.time_base or reading.tick)
            length = frame.duration * Fraction(frame.time_base or reading.tick) if frame.duration else None
            shown = Shown(time, length)
            reading.times.append(shown)
            yield shown, frame
    if reading.damaged:
        raise _damaged(reading, 0, len(reading.times), "its data end in the middle of a frame")
    reading.finished = True


def _damaged(reading: _Reading, first: int, whole: int, reason: str) -> NodeError:
    message = f"{reading.path} is damaged or incomplete after frame {first + whole - 1}: {reason}"
    if whole == 0:
        return NodeError(f"{reading.path} is damaged or incomplete: {reason}", help="copy or download the file again")
    return NodeError(message, help=f"copy or download the file again, or load its first frames with `count: {whole}`")


def _upright_colours(reading: _Reading, frame: Any, background: str | None) -> Any:
    if len(reading.notes) < 20:  # of a frame's notes, equal ones are shown once
        reading.notes += frame_notes(frame, reading.stream, reading.path)
    values = frame_values(frame, reading.path)
    if values.alpha is not None and background is None and values.alpha.min() < 1:
        reading.notes.append(
            f"{reading.path} has transparent pixels, which are put on white; `background` of video.load chooses the "
            f"colour"
        )
    colours = composited(values.colours, values.alpha, colour(background))
    return numpy.ascontiguousarray(display_turn(frame).applied(colours), dtype=numpy.float32)


def _named_rate(reading: _Reading, measured: Rate, frames: int) -> float:
    """The rate that the file names if it agrees with the times, else the measured one."""
    named = reading.stream.average_rate or reading.stream.guessed_rate
    if measured.fps is None or measured.varies:
        return float(measured.fps or named or 0)
    # The first and the last time are rounded.
    if named and abs(measured.fps / Fraction(named) - 1) <= SAME_RATE + reading.tick * measured.fps / frames:
        return float(named)
    return float(measured.fps)


def _note_end(reading: _Reading) -> None:
    """A note if the file ends before the time or the number of frames that its header announces."""
    stream, last = reading.stream, reading.times[-1]
    if stream.frames > reading.packets:
        reading.notes.append(
            f"{reading.path} may be incomplete: its header announces {stream.frames} frames, and it has "
            f"{reading.packets}"
        )
        return
    announced = _announced(reading)
    step = rate(reading.times, reading.tick).fps
    end = last.time - reading.times[0].time + (last.duration or 0)
    if announced is not None and step and announced - end > MISSING / step + reading.tick:
        reading.notes.append(
            f"{reading.path} may be incomplete: its header announces {float(announced):.3g} seconds, and it has "
            f"{float(end):.3g}"
        )


def _announced(reading: _Reading) -> Fraction | None:
    """Seconds of the stream by the header; Matroska gives them in the tag DURATION."""
    try:
        hours, minutes, seconds = reading.stream.metadata.get("DURATION", "").split(":")
        return Fraction(int(hours) * 3600 + int(minutes) * 60) + Fraction(seconds)
    except (ValueError, AttributeError):
        pass
    only = len(reading.container.streams) == 1
    return Fraction(reading.container.duration, SECOND) if only and reading.container.duration else None


def _stacked(frames: list[Any]) -> Any:
    """The frames as one array; each is freed once it is copied."""
    made = numpy.empty((len(frames), *frames[0].shape), numpy.float32)
    for index in range(len(frames)):
        made[index], frames[index] = frames[index], None
    return made
