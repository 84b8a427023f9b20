"""Image files of random pixels, written byte by byte or by other libraries than those that read them."""

from __future__ import annotations

import struct
import zlib
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

PNG_CHANNELS = {0: 1, 2: 3, 4: 2, 6: 4}  # by colour type; PNG specification, table 11.1


def numbers(*shape: int, maximum: int = 65535, seed: int = 0) -> np.ndarray[Any, Any]:
    """Random whole numbers from 0 to `maximum`, which both occur in every channel."""
    made = np.random.default_rng(seed).integers(0, maximum + 1, shape).astype(np.uint16)
    made[0, 0], made[0, 1] = 0, maximum
    return made


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png16(path: Path, pixels: np.ndarray[Any, Any], colour_type: int, extra: bytes = b"") -> Path:
    """A PNG of 16 bits per channel, with further chunks before its pixels."""
    height, width = pixels.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0)
    content = chunk(b"IHDR", header) + extra + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + content)
    return path


def jpeg2000(pixels: np.ndarray[Any, Any], pixel_format: str) -> bytes:
    """A lossless JPEG 2000 file in a pixel format of FFmpeg."""
    context: Any = av.CodecContext.create("jpeg2000", "w")
    context.height, context.width, context.pix_fmt = *pixels.shape[:2], pixel_format
    context.time_base, context.options = Fraction(1, 25), {"format": "jp2", "pred": "dwt53"}
    frame = av.VideoFrame(context.width, context.height, pixel_format)
    plane = frame.planes[0]
    rows = np.zeros((plane.height, plane.line_size // 2), "<u2")
    rows[:, : pixels[0].size] = pixels.reshape(len(pixels), -1)
    plane.update(rows.tobytes())
    frame.pts = 0
    return b"".join(bytes(packet) for packet in [*context.encode(frame), *context.encode(None)])


def cmyk_profile(lab: np.ndarray[Any, Any]) -> bytes:
    """An ICC profile for CMYK: `lut8Type` (ICC.1:2010, 10.9) with two points for each ink.

    Args:
        lab: 8-bit L*a*b* for each combination of no ink and full ink, [2, 2, 2, 2, 3], cyan first.
    """
    ramp = bytes(range(256))
    identity = struct.pack(">9i", 65536, 0, 0, 0, 65536, 0, 0, 0, 65536)
    lut = b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + identity + ramp * 4 + lab.astype(np.uint8).tobytes() + ramp * 3
    name = b"Press\0"
    text = b"desc" + bytes(4) + struct.pack(">I", len(name)) + name + bytes(78)
    white = b"XYZ " + bytes(4) + struct.pack(">3i", 63190, 65536, 54061)  # D50
    content, table = b"", struct.pack(">I", 3)
    for tag, value in ((b"desc", text), (b"wtpt", white), (b"A2B0", lut)):
        table += tag + struct.pack(">II", 128 + 4 + 3 * 12 + len(content), len(value))
        content += value + bytes(-len(value) % 4)
    size = 128 + len(table) + len(content)
    header = struct.pack(">I4xI4s4s4s12x4s", size, 0x02400000, b"prtr", b"CMYK", b"Lab ", b"acsp")
    header = header.ljust(68, b"\0") + struct.pack(">3i", 63190, 65536, 54061)
    return header.ljust(128, b"\0") + table + content
