"""The header of a safetensors file, with all rules of the format checked. Torch-free; the tensors are not read.

The format (https://huggingface.co/docs/safetensors): eight bytes of length, JSON, then the tensors without gaps.
"""

from __future__ import annotations

import json
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Any, NoReturn

from ...graph.contract.errors import NodeError
from ...graph.contract.json_reader import parse_json
from .file_contents import mistaken

AGAIN = "the copy is damaged or incomplete: delete the file and download the model again"
LARGEST = 100_000_000  # bytes; the limit of the safetensors package
MAX_TEXT = 16 << 20  # training programs write long tables into one text of the metadata

BITS = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("I16", "U16", "F16", "BF16"), 16),
    **dict.fromkeys(("I32", "U32", "F32"), 32),
    **dict.fromkeys(("I64", "U64", "F64", "C64"), 64),
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    "F4": 4,
}
"""Bits of one number, by the dtype's name (Dtype in safetensors/src/tensor.rs of safetensors 0.8)."""


def read_header(file: Path) -> dict[str, Any]:
    """The header of a safetensors file: `{dtype, shape, data_offsets}` of each tensor by name, and `__metadata__`.

    Raises:
        NodeError: If the file cannot be read, is truncated, or breaks a rule of the format. The message names the file.
    """
    try:
        if file.exists() and not file.is_file():
            raise NodeError(f"{file} is not a file", help=AGAIN)
        size = file.stat().st_size
        with file.open("rb") as stream:
            start = stream.read(8)
            length = int.from_bytes(start, "little")
            known = mistaken(start + stream.read(64))
            if known is not None:
                raise NodeError(f"{file} is not a safetensors file: it is {known.what}", help=known.cure)
            if size < 8 or (8 + length > size and length <= LARGEST):
                raise NodeError(f"{file} is truncated: {size} bytes, its header is not whole", help=AGAIN)
            if length > LARGEST:
                _refuse(file, f"its header would have {length} bytes")
            stream.seek(8)
            text = stream.read(length)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise NodeError(f"cannot read {file}: {reason}", help=AGAIN) from error
    try:
        content = parse_json(text, "header", MAX_TEXT)
    except NodeError as error:
        _refuse(file, f"its header cannot be read ({error})")
    if not isinstance(content, dict):
        _refuse(file, "its header is not a JSON object")
    expected = 8 + length + _extent(file, content)
    if size < expected:
        raise NodeError(f"{file} is truncated: {size} bytes of {expected}", help=AGAIN)
    if size > expected:
        raise NodeError(f"{file} has {size - expected} bytes after its last tensor", help=AGAIN)
    return content


def _extent(file: Path, content: dict[str, Any]) -> int:
    """The number of bytes of all tensors."""
    metadata = content.get("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        _refuse(file, "`__metadata__` of its header is not a mapping of texts")
    places: list[tuple[int, int]] = [(0, 0)]
    for name, entry in content.items():
        if name == "__metadata__":
            continue
        if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
            _refuse(file, f"its header does not give `dtype`, `shape` and `data_offsets` of tensor {name[:80]}")
        dtype, shape, place = entry["dtype"], entry["shape"], entry["data_offsets"]
        if not isinstance(dtype, str) or dtype not in BITS:
            _refuse(file, f"tensor {name[:80]} has a dtype that safetensors does not have: {str(dtype)[:40]}")
        if not _is_sizes(shape):
            _refuse(file, f"tensor {name[:80]} has no valid shape")
        if not _is_sizes(place) or len(place) != 2:
            _refuse(file, f"tensor {name[:80]} has no valid place in the file")
        if (place[1] - place[0]) * 8 != prod(shape) * BITS[dtype]:
            _refuse(file, f"tensor {name[:80]} has {place[1] - place[0]} bytes, which is not {dtype} of shape {shape}")
        places.append((place[0], place[1]))
    places.sort()
    for (_, end), (start, _) in pairwise(places):
        if start != end:
            _refuse(file, f"its tensors {'overlap' if start < end else 'leave gaps'} at byte {min(start, end)}")
    return places[-1][1]


def _is_sizes(value: Any) -> bool:
    return isinstance(value, list) and all(type(n) is int and 0 <= n < 2**63 for n in value)


def _refuse(file: Path, reason: str) -> NoReturn:
    raise NodeError(f"{file} is not a safetensors file: {reason}", help=AGAIN)


def sort_header(file: Path) -> None:
    """Sort the metadata of a file that the safetensors package wrote, whose order differs from call to call.

    Equal files have equal bytes then. The length of the header stays the same.

    Raises:
        NodeError: If the file has no header.
        OSError: If it cannot be written.
    """
    content = read_header(file)
    metadata = dict(sorted(content.pop("__metadata__", {}).items()))
    text = json.dumps({"__metadata__": metadata, **content}, separators=(",", ":"), ensure_ascii=False).encode()
    with file.open("r+b") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if len(text) <= length:
            stream.write(text.ljust(length))
