"""Video files with colours, times and properties that are written with PyAV or byte by byte."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

# Weights of red and blue in luma: ITU-R BT.601-7 (2.5.1), BT.709-6 (3.2), BT.2020-2 (table 4).
WEIGHTS = {"bt601": (0.299, 0.114), "bt709": (0.2126, 0.0722), "bt2020": (0.2627, 0.0593)}
TAGS = {"bt601": 5, "bt709": 1, "bt2020": 9, None: 2}


def matrix(name: str) -> np.ndarray[Any, Any]:
    """Luma and the two colour differences of red, green and blue."""
    red, blue = WEIGHTS[name]
    luma = np.array([red, 1 - red - blue, blue])
    return np.stack(
        [luma, (np.array([0, 0, 1]) - luma) / (2 * (1 - blue)), (np.array([1, 0, 0]) - luma) / (2 * (1 - red))]
    )


def stored(colour: Sequence[float], name: str, full: bool, bits: int) -> np.ndarray[Any, Any]:
    """The three whole numbers of a colour in a video of this matrix, range and depth."""
    values, top = matrix(name) @ np.array(colour), 2**bits - 1
    if full:
        return np.round(values * top + [0, 2 ** (bits - 1), 2 ** (bits - 1)]).clip(0, top)
    return np.round((values * [219, 224, 224] + [16, 128, 128]) * 2 ** (bits - 8))


def plain_frame(numbers: np.ndarray[Any, Any], pixel_format: str, width: int = 64, height: int = 48) -> Any:
    """A frame of one colour, plane by plane."""
    frame = av.VideoFrame(width, height, pixel_format)
    dtype = "u1" if frame.format.components[0].bits == 8 else "<u2"
    for plane, number in zip(frame.planes, numbers, strict=True):
        plane.update(np.full(plane.buffer_size // np.dtype(dtype).itemsize, int(number), dtype).tobytes())
    return frame


def write(
    path: Path,
    frames: Sequence[Any],
    *,
    times: Sequence[int] | None = None,
    rate: Fraction | int = 25,
    codec: str = "libx264",
    time_base: Fraction | None = None,
    colours: tuple[int, int] = (2, 0),
    characteristics: tuple[int, int] = (2, 2),
    ratio: Fraction | None = None,
    options: dict[str, str] | None = None,
) -> Path:
    """A video of frames.

    Args:
        times: When each frame is shown, in units of `time_base`; evenly without it.
        colours: Tags of matrix and range.
        characteristics: Tags of primaries and transfer.
        ratio: Width of a pixel divided by its height.
    """
    with av.open(str(path), "w") as output:
        stream: Any = output.add_stream(codec, rate=rate)
        stream.width, stream.height, stream.pix_fmt = frames[0].width, frames[0].height, frames[0].format.name
        context = stream.codec_context
        context.colorspace, context.color_range = colours
        context.color_primaries, context.color_trc = characteristics
        if ratio is not None:
            context.sample_aspect_ratio = ratio
        if codec == "libx264":
            stream.options = {"crf": "0", "preset": "ultrafast"}
        stream.options = {**stream.options, **(options or {})}
        if time_base is not None:
            context.time_base = time_base
        for index, frame in enumerate(frames):
            if times is not None:
                frame.pts, frame.time_base = times[index], time_base
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return path


def numbered_frames(count: int, width: int = 64, height: int = 48) -> list[Any]:
    """Grey frames; frame n has the luma 40 + 3 n."""
    return [plain_frame(np.array([40 + 3 * n, 128, 128]), "yuv420p", width, height) for n in range(count)]


def number_of(grey: float) -> int:
    """The number of a frame of `numbered_frames`, from its grey value between 0 and 1."""
    return round((grey * 219 + 16 - 40) / 3)


def with_matrix(path: Path, entries: Sequence[float]) -> None:
    """Write a, b, c, d of the display matrix into an MP4; ISO/IEC 14496-12, 8.3.2."""
    content = bytearray(path.read_bytes())
    place = content.index(b"tkhd") + 44
    a, b, c, d = (round(entry * 65536) for entry in entries)
    content[place : place + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(content)


def decoded(path: Path) -> bytes:
    """All pixels of a picture or a clip, 8 bits for each of red, green and blue."""
    with av.open(str(path)) as opened:
        return b"".join(frame.to_ndarray(format="rgb24").tobytes() for frame in opened.decode(video=0))
