"""Properties of a video frame besides its pixels: how it is turned, and notes about properties that are not applied."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .video_pixels import HIGH_DEFINITION, assumed_matrix

HDR = {16: "PQ", 18: "HLG"}  # transfer characteristics of ITU-T H.273, table 3
WIDE = {9: "BT.2020", 11: "DCI-P3", 12: "Display P3"}  # colour primaries, table 2
UNIT = 65536  # 1.0 in a display matrix
NEARLY = 0.01


@dataclass(frozen=True)
class Turn:
    """How a stored frame becomes upright: axes swapped, then rows and columns reversed.

    `angle` is the angle in degrees if it is not a multiple of 90; the frame is not turned then.
    """

    swapped: bool = False
    rows: bool = False
    columns: bool = False
    angle: float | None = None

    def applied(self, pixels: Any) -> Any:
        """An array [H, W, ...], turned."""
        if self.swapped:
            pixels = pixels.swapaxes(0, 1)
        return pixels[:: -1 if self.rows else 1, :: -1 if self.columns else 1]


def display_turn(frame: Any) -> Turn:
    """The turn of a frame's display matrix; ISO/IEC 14496-12, 6.2.2."""
    content = next((data for data in frame.side_data if data.type.name == "DISPLAYMATRIX"), None)
    if content is None:
        return Turn()
    numbers = struct.unpack("=9i", bytes(content)[:36])
    # A stored point (x, y) is shown at (a x + c y, b x + d y).
    a, b, c, d = (numbers[index] / UNIT for index in (0, 1, 3, 4))
    if abs(b) < NEARLY and abs(c) < NEARLY and a and d:
        return Turn(False, d < 0, a < 0)
    if abs(a) < NEARLY and abs(d) < NEARLY and b and c:
        return Turn(True, b < 0, c < 0)
    return Turn(angle=math.degrees(math.atan2(b, a)))


def frame_notes(frame: Any, stream: Any, path: Path) -> list[str]:
    """Sentences about properties of a frame that change how players show it, and that are not applied."""
    found = []
    turn = display_turn(frame)
    if turn.angle is not None:
        found.append(f"players show {path} turned by {turn.angle:.0f} degrees; its frames are loaded as stored")
    ratio = stream.sample_aspect_ratio
    if ratio and ratio > 0 and ratio != 1:
        shown = round(frame.width * float(ratio))
        found.append(
            f"the pixels of {path} are not square: its frames are loaded as stored, {frame.width}x{frame.height}, and "
            f"players show them as {shown}x{frame.height}"
        )
    if frame.interlaced_frame:
        found.append(f"{path} is interlaced: each frame holds the lines of two moments")
    transfer, primaries = stream.codec_context.color_trc, stream.codec_context.color_primaries
    if transfer in HDR:
        found.append(f"{path} is HDR ({HDR[transfer]}), which is not converted: it looks pale and dark")
    elif primaries in WIDE:
        found.append(f"{path} has the colours of {WIDE[primaries]}, which are not converted: it looks pale")
    if stream.metadata.get("alpha_mode") == "1":
        found.append(f"{path} has transparent pixels, which are not read")
    if assumed_matrix(frame):
        assumed = "BT.709" if frame.height >= HIGH_DEFINITION else "BT.601"
        found.append(f"{path} does not name the matrix of its colours; {assumed} is assumed, as players do")
    return found
