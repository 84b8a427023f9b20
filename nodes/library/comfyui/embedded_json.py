"""Finds the workflow that ComfyUI writes into a file: JSON itself, text in a PNG or WebP picture, tags of a clip."""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

LARGEST = 64 << 20  # bytes of a JSON file, or of one text in a picture
TEXTS = (b"tEXt", b"zTXt", b"iTXt")
KEYS = ("prompt", "workflow", "comment")
"""Names of the texts and tags; video nodes write both workflows into one comment."""
CLIPS = (".mp4", ".mov", ".mkv", ".webm", ".m4v", ".gif")


def embedded(path: Path) -> Iterator[Any]:
    """The JSON values in a file that may be workflows; none if it cannot be read."""
    with suppress(OSError, ValueError):
        if not path.is_file():
            return
        with path.open("rb") as file:
            start = file.read(16)
        if start.startswith(b"\x89PNG\r\n\x1a\n"):
            yield from _values(_png_texts(path))
        elif start.startswith(b"RIFF") and start[8:12] == b"WEBP":
            yield from _values(_webp_texts(path))
        elif start[4:8] == b"ftyp" or path.suffix.lower() in CLIPS:
            yield from _values(_tags(path))
        elif start.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{") and path.stat().st_size <= LARGEST:
            yield from _values([path.read_bytes().decode("utf-8-sig", errors="replace")])


def _values(texts: Iterator[str] | list[str]) -> Iterator[Any]:
    """The values of JSON texts, and the values in them that are JSON texts again."""
    for text in texts:
        value = _parsed(text)
        if isinstance(value, dict):
            yield value
            for key in KEYS:
                inner = value.get(key)
                inner = _parsed(inner) if isinstance(inner, str) else inner
                if isinstance(inner, dict):
                    yield inner


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _png_texts(path: Path) -> Iterator[str]:
    """The texts of a PNG picture (https://www.w3.org/TR/png/, section 11.3.3)."""
    size = path.stat().st_size
    with path.open("rb") as file:
        file.seek(8)
        while (head := file.read(8)) and len(head) == 8:
            length, kind = int.from_bytes(head[:4], "big"), head[4:]
            after = file.tell() + length + 4
            if after > size or kind == b"IEND":
                return
            if kind in TEXTS and length <= LARGEST:
                key, _, rest = file.read(length).partition(b"\0")
                if key.decode("latin-1").lower() in KEYS:
                    yield _png_text(kind, rest)
            file.seek(after)


def _png_text(kind: bytes, data: bytes) -> str:
    """The text of a chunk, after its key."""
    if kind == b"tEXt":
        return data.decode("utf-8", errors="replace")
    if kind == b"zTXt":
        return _inflated(data[1:]).decode("utf-8", errors="replace")
    packed, (_, _, text) = data[:1] == b"\1", [*data[2:].split(b"\0", 2), b"", b""][:3]
    return (_inflated(text) if packed else text).decode("utf-8", errors="replace")


def _inflated(data: bytes) -> bytes:
    """Unpacked data, at most `LARGEST` bytes; what is longer is cut."""
    try:
        return zlib.decompressobj().decompress(data, LARGEST)
    except zlib.error:
        return b""


def _webp_texts(path: Path) -> Iterator[str]:
    """The texts in the EXIF data of a WebP picture, which begin with `prompt:` or `workflow:`."""
    with path.open("rb") as file:
        data = file.read(LARGEST)
    for found in re.finditer(rb"(?:prompt|workflow):(\{[^\0]*)", data):
        yield found[1].decode("utf-8", errors="replace")


def _tags(path: Path) -> Iterator[str]:
    """The tags of a clip."""
    import av

    try:
        with av.open(str(path), metadata_errors="replace") as container:
            tags = dict(container.metadata)
    except (av.error.FFmpegError, OSError, ValueError):
        return
    for name, text in tags.items():
        if name.lower().rpartition(".")[2] in KEYS:
            yield text
