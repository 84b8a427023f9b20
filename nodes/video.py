"""`video.save` and `video.load`."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

from pydantic import Field

from ..graph.contract.diagnostics import Diagnostic
from ..graph.contract.errors import NodeError
from ..graph.contract.facts import NodeFacts, require
from ..graph.contract.node import OutPath, Run, node
from ..graph.contract.process_state import released
from .support.backgrounds import colour_problem
from .support.input_files import file_problems
from .support.lazy import lazy
from .support.path_names import numbered, written
from .support.pixels import to_bytes
from .support.recipe_places import KEY, recipe_options
from .support.video_pixels import SCALING
from .support.video_reading import read_video
from .value_facts import FramesFacts
from .values import File, Frames

if TYPE_CHECKING:
    import av
    import numpy
    import torch
else:
    av, numpy, torch = lazy("av"), lazy("numpy"), lazy("torch")

Natural = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]
Fps = Annotated[float, Field(ge=0.01, le=1000)]

# Container and encoder by extension. Pillow writes GIFs, because its palettes are better.
FORMATS = {
    ".mp4": ("mp4", "libx264"),
    ".mov": ("mov", "libx264"),
    ".mkv": ("matroska", "libx264"),
    ".webm": ("webm", "libvpx-vp9"),
    ".gif": ("gif", "pillow"),
}
# The index stands before the frames, so that players start before they have the whole file, and MP4 keeps tags of any
# name. A Matroska file has no random numbers in it.
CONTAINER_OPTIONS = {
    "mp4": {"movflags": "+faststart+use_metadata_tags"},
    "mov": {"movflags": "+faststart+use_metadata_tags"},
    "matroska": {"fflags": "+bitexact"},
    "webm": {"fflags": "+bitexact"},
}
BT709 = 1  # in FFmpeg's enumerations of colour spaces, primaries and transfer functions
CRF = {"libx264": (18, 51), "libvpx-vp9": (24, 63)}  # default and largest
GIF_FPS = 50  # browsers slow a GIF down to 10 frames per second if a frame lasts less than two hundredths of a second


@dataclass(frozen=True, kw_only=True)
class VideoSaveFacts(NodeFacts):
    """Facts of `video.save`."""

    frames: FramesFacts = FramesFacts()
    path: str | None = None
    fps: float | None = None
    crf: int | None = None


def _check_save(facts: VideoSaveFacts) -> Iterator[Diagnostic]:
    crf = facts.crf
    if facts.path is None:
        return
    suffix = Path(facts.path).suffix.lower()
    if suffix not in FORMATS:
        message = f"no video format has the extension {suffix!r}" if suffix else "the file name has no extension"
        yield Diagnostic("bad-value", message, "path", help=f"use one of {', '.join(FORMATS)}")
        return
    encoder = FORMATS[suffix][1]
    if crf is not None and encoder not in CRF:
        yield Diagnostic("bad-value", f"{suffix} has no quality setting", "crf")
    elif crf is not None and crf > CRF[encoder][1]:
        message = f"crf {crf} is not between 0 (best) and {CRF[encoder][1]}, the range for {suffix}"
        yield Diagnostic("bad-value", message, "crf")
    elif crf == 0 and encoder == "libx264":
        message = "crf 0 is lossless H.264, which browsers and many players do not play"
        yield Diagnostic("bad-value", message, "crf", help="crf 1 looks the same", severity="warning")
    if suffix == ".gif" and facts.fps is not None and facts.fps > GIF_FPS:
        message = f"browsers play a GIF of more than {GIF_FPS} frames per second at 10"
        yield Diagnostic("bad-value", message, "fps", help="give a lower `fps`, or save an .mp4", severity="warning")


@node("video.save", effect=True, check=_check_save)
def save(run: Run, frames: Frames, path: OutPath, *, fps: Fps = 16.0, crf: Natural | None = None) -> list[File]:
    """Save clips as video files: H.264 in .mp4, .mov and .mkv, VP9 in .webm, or .gif.

    One clip gets the given name. Several clips get the name with -0, -1, … before the extension. Colours are stored
    as BT.709 yuv420p in the limited range, which every player shows. It needs even sizes: for an odd size, the last
    row or column is repeated. An MP4 starts to play before it is loaded. A GIF counts time in hundredths of a second;
    its frames differ by one of them where needed, so that the clip lasts as long as it should. The file carries the
    recipe of the run, unless `--no-metadata` is given (docs/made-again.md).

    Args:
        frames: Frames in [0, 1], [B, F, H, W, 3].
        path: File name, with one of the extensions above.
        fps: Frames per second (Wan: 16).
        crf: Constant rate factor: 0 is the best quality, larger numbers make smaller files. Without it, 18 for H.264
            and 24 for VP9. Many players do not play H.264 of 0.

    Returns:
        One file per clip.

    Raises:
        NodeError: If the extension is unknown, or the file cannot be written.
    """
    require(_check_save, VideoSaveFacts(path=str(path), crf=crf))
    container, encoder = FORMATS[Path(path).suffix.lower()]
    recipe, files = run.recipe(), []
    for clip, name in zip(frames.tensor.unbind(), numbered(path, len(frames.tensor)), strict=True):
        target = run.output(name)
        pixels = to_bytes(clip)
        # Encoders use nothing of torch: another thread of the run may change state of the process meanwhile.
        with written(run, target) as part, released():
            if encoder == "pillow":
                _write_gif(part, pixels, fps, recipe_options("GIF", recipe, run))
            else:
                if pixels.shape[1] % 2 or pixels.shape[2] % 2:
                    run.warn(
                        f"{pixels.shape[2]}x{pixels.shape[1]} is odd: the last row or column is repeated", "frames"
                    )
                crf = CRF[encoder][0] if crf is None else crf
                _write(run, part, pixels, fps, container, encoder, crf, recipe)
        files.append(File(target))
    return files


def _write(
    run: Run,
    path: Path,
    pixels: numpy.ndarray[Any, Any],
    fps: float,
    container: str,
    encoder: str,
    crf: int,
    recipe: str | None,
) -> None:
    from av.video.reformatter import ColorRange, Colorspace

    _, height, width, _ = pixels.shape
    pixels = numpy.pad(pixels, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    try:
        with av.open(str(path), "w", format=container, options=CONTAINER_OPTIONS.get(container, {})) as output:
            if recipe is not None:
                output.metadata[KEY] = recipe
            stream: Any = output.add_stream(encoder, rate=Fraction(fps).limit_denominator(1001))
            stream.height, stream.width = pixels.shape[1:3]
            stream.pix_fmt = "yuv420p"
            context = stream.codec_context
            context.colorspace, context.color_primaries, context.color_trc = BT709, BT709, BT709
            context.color_range = ColorRange.MPEG
            stream.options = {"crf": str(crf), **(_x264_options() if encoder == "libx264" else {})}
            for index, image in enumerate(pixels):
                frame = av.VideoFrame.from_ndarray(image, format="rgb24")
                # Convert to the colour space that the file names. Without a name, players guess it from the height.
                frame = frame.reformat(
                    format="yuv420p",
                    dst_colorspace=Colorspace.ITU709,
                    dst_color_range=ColorRange.MPEG,
                    interpolation=SCALING,
                )
                output.mux(stream.encode(frame))
                run.progress(index + 1, len(pixels), "frames")
            output.mux(stream.encode(None))
    except av.error.FFmpegError as error:
        raise NodeError(f"{encoder} failed: {error}") from error


@cache
def _x264_options() -> Mapping[str, str]:
    """Options with which equal frames make equal files.

    The AVX-512 code of x264 gave different files for equal frames on a busy machine: 48 of 250, and none of 250 with
    AVX2 at most.
    """
    try:
        has_avx512 = " avx512" in Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    except OSError:
        return {}  # not Linux
    return {"x264-params": "asm=AVX2"} if has_avx512 else {}


def _write_gif(path: Path, pixels: numpy.ndarray[Any, Any], fps: float, options: Mapping[str, Any]) -> None:
    from PIL import Image

    first, *rest = [Image.fromarray(image) for image in pixels]
    ends = [round(100 * (index + 1) / fps) for index in range(len(pixels))]  # hundredths of a second
    lengths = [max(1, end - start) * 10 for start, end in zip([0, *ends], ends, strict=False)]
    try:
        first.save(path, format="GIF", save_all=True, append_images=rest, duration=lengths, loop=0, **options)
    except struct.error:  # equal frames are one frame, which lasts as long as all of them
        raise NodeError("a frame of a GIF lasts at most 655 seconds", help="give a higher `fps`") from None


class Clip(NamedTuple):
    """The result of `video.load`."""

    frames: Frames
    fps: float


@dataclass(frozen=True, kw_only=True)
class VideoLoadFacts(NodeFacts):
    """Facts of `video.load`."""

    path: str | None = None
    first: int | None = None
    count: int | None = None
    fps: float | None = None
    background: str | None = None


def _check_load(facts: VideoLoadFacts) -> Iterator[Diagnostic]:
    yield from file_problems(facts.path)
    yield from colour_problem(facts.background)


@node("video.load", check=_check_load)
def load(
    run: Run,
    path: Path,
    *,
    first: Natural = 0,
    count: Positive | None = None,
    fps: Fps | None = None,
    background: str | None = None,
) -> Clip:
    """Load frames of a video file, in the colours and the orientation that players show.

    Colours follow the matrix and the range that the file names, at its full depth; frames are turned as its display
    matrix says. Without `fps`, all frames are loaded as they are. If they are shown for different times, a warning
    says so, because a clip has an even rate. These give a warning too: transparent pixels, which are put on white; HDR
    and wide colours, which are not converted; interlaced frames; pixels that are not square; a file that names no
    matrix, or ends before its header says.

    Args:
        path: Any format that FFmpeg reads.
        first: Number of the first frame to take, from 0.
        count: Number of frames to take; without it, all frames from `first` on.
        fps: Take frames at this even rate: for each moment the frame that is shown then. `first` and `count` count
            these frames.
        background: Colour behind transparent pixels, `#rrggbb` or a CSS name such as `black`. Without it, white, with
            a warning.

    Returns:
        The frames in [0, 1], float32, [1, F, H, W, 3] on the run's device, and their frames per second.

    Raises:
        NodeError: If the file is missing, is not a video, is damaged, changes its size, has fewer frames than
            requested or no frame rate; or if `background` is not a colour.
    """
    require(_check_load, VideoLoadFacts(path=str(path), background=background))
    read = read_video(path, first, count, fps, background)
    for note in read.notes:
        run.warn(note, "path")
    if not read.fps:
        raise NodeError(f"{path} has no frame rate", help="give `fps`")
    return Clip(Frames(torch.from_numpy(read.pixels).unsqueeze(0).to(run.device)), read.fps)
