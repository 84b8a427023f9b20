"""The header of a safetensors file, checked as the safetensors library checks it. Torch-free.

The library reports a broken header with an error of its own that names no file, and only when a tensor is read.
"""

from __future__ import annotations

import json
from math import prod
from typing import Any

BITS = {
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("I16", "U16", "F16", "BF16"), 16),
    **dict.fromkeys(("I32", "U32", "F32"), 32),
    **dict.fromkeys(("I64", "U64", "F64", "C64"), 64),
}
"""Bits of one value, by dtype. Source: `Dtype::bitsize` of the safetensors library, 0.8."""

MOST_BYTES = 100_000_000
"""Longest header that the safetensors library reads."""

OTHER_FILES = (
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself"),
    (b"PK\x03\x04", "a PyTorch or zip file"),
    (b"\x80", "a pickle"),
    (b"GGUF", "a GGUF file"),
    (b"<", "a web page"),
)
"""Beginnings of files that are often given another name, and their kinds."""


class BadHeader(Exception):
    """A header cannot be used; the text is the reason, as the end of a sentence about the file."""


def other_file(start: bytes) -> str | None:
    """The kind of a file that is no safetensors file, by its first bytes; None if they do not tell."""
    return next((kind for prefix, kind in OTHER_FILES if start.lstrip().startswith(prefix)), None)


def parse(header: bytes) -> dict[str, Any]:
    """The entries of a header: dtype, shape and place of each tensor by name, and perhaps `__metadata__`.

    Raises:
        BadHeader: If the header is not JSON of this structure, or a tensor's size is not that of its shape.
    """
    try:
        content = json.loads(header.decode("utf-8"), object_pairs_hook=_unique)
        if not isinstance(content, dict):
            raise BadHeader("its header is not a JSON object")
        _check_metadata(content.get("__metadata__"))
        for name, entry in content.items():
            if name != "__metadata__":
                name.encode("utf-8")  # fails for half of a surrogate pair
                _check_tensor(name, entry)
    except (ValueError, RecursionError) as error:
        raise BadHeader("its header is not JSON") from error
    return content


def check_places(content: dict[str, Any]) -> None:
    """Check that the tensors lie one after the other, without gaps.

    Raises:
        BadHeader: If one does not begin where the one before it ends.
    """
    place = 0
    entries = [(entry["data_offsets"], name) for name, entry in content.items() if name != "__metadata__"]
    for (begin, end), name in sorted(entries):
        if begin != place:
            raise BadHeader(f"{_short(name)} does not begin where the tensor before it ends")
        place = end


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise BadHeader(f"{_short(twice)} is in its header twice")
    return found


def _check_metadata(metadata: Any) -> None:
    if metadata is None:
        return
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise BadHeader("its metadata is not a table of texts")


def _check_tensor(name: str, entry: Any) -> None:
    if not isinstance(entry, dict) or not {"dtype", "shape", "data_offsets"} <= set(entry):
        raise BadHeader(f"{_short(name)} is without dtype, shape or place")
    dtype, shape, place = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in BITS:
        raise BadHeader(f"{_short(name)} has an unknown dtype ({_short(str(dtype))})")
    if not _are_sizes(shape) or not _are_sizes(place) or len(place) != 2:
        raise BadHeader(f"{_short(name)} has no proper shape or place")
    if (place[1] - place[0]) * 8 != prod(shape) * BITS[dtype]:
        raise BadHeader(f"{_short(name)} has {place[1] - place[0]} bytes, which do not fit its shape {shape[:8]}")


def _are_sizes(values: Any) -> bool:
    return isinstance(values, list) and all(type(size) is int and 0 <= size < 2**63 for size in values)


def _short(name: str) -> str:
    return name if len(name) <= 120 else f"{name[:117]}…"
