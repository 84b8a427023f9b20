"""The number of bits that an image file holds for each channel, which Pillow does not tell."""

from __future__ import annotations

from pathlib import Path
from typing import Any

BITS, SAMPLE_FORMAT = 258, 339  # tags of TIFF 6.0
SIGNED = 2  # a SampleFormat of TIFF 6.0


def reduced(opened: Any, path: Path) -> bool:
    """Whether Pillow reads fewer bits of this image than its file holds. `opened` has not been loaded yet."""
    if opened.mode == "F" or opened.mode.startswith("I"):
        return False
    if opened.format == "TIFF":
        return max(tags(opened, BITS, 1)) > 8
    if opened.format == "JPEG2000":
        return jpeg2000_bits(path) > 8
    if opened.format == "AVIF":
        return avif_bits(path) > 8
    if not opened.tile:
        return False
    decoder, arguments = opened.tile[0][0], opened.tile[0][3]
    if opened.format == "PPM":
        return isinstance(arguments, tuple) and len(arguments) > 1 and arguments[1] > 255
    raw = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    return decoder == "SGI16" or (isinstance(raw, str) and ";16" in raw)


def tags(opened: Any, number: int, default: int) -> tuple[int, ...]:
    """The values of a tag of a TIFF file; `default` for other files, or without the tag."""
    found = opened.tag_v2.get(number, default) if opened.format == "TIFF" else default
    return tuple(int(value) for value in found) if isinstance(found, tuple) else (int(found),)


def signed(opened: Any) -> bool:
    """Whether a file holds signed whole numbers."""
    return tags(opened, SAMPLE_FORMAT, 1)[0] == SIGNED


def jpeg2000_bits(path: Path) -> int:
    """Bits of the first component, from the codestream's SIZ marker; ISO/IEC 15444-1, A.5.1."""
    head = _head(path)
    start = head.find(b"\xff\x4f\xff\x51")
    return (head[start + 42] & 0x7F) + 1 if 0 <= start < len(head) - 42 else 8


def avif_bits(path: Path) -> int:
    """Bits of each component, from the configuration of the AV1 codec (`av1C`), section 2.3 of its specification."""
    head = _head(path)
    start = head.find(b"av1C")
    flags = head[start + 6] if 0 <= start < len(head) - 6 else 0
    return 8 if not flags & 0x40 else 12 if flags & 0x20 else 10


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(2**16)
