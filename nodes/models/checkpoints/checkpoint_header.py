"""The header of a one-file checkpoint: safetensors or GGUF, told apart by content. Torch-free."""

from __future__ import annotations

import json
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

from ....graph.contract.errors import NodeError
from ..repository import weight_files
from . import gguf_header
from .stored_tensors import AGAIN, SAFETENSORS_BYTES, CheckpointHeader, StoredTensor

PICKLE_STARTS = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
"""First bytes of files that `torch.save` writes: a zip archive, or a bare pickle."""

GGML_STARTS = (b"lmgg", b"fmgg", b"tjgg")
"""First bytes of files in the formats before GGUF."""


def read(file: Path) -> CheckpointHeader:
    """Read the header of a file.

    Raises:
        NodeError: If the file cannot be read, is truncated or damaged, or is neither safetensors nor GGUF.
    """
    try:
        with file.open("rb") as stream:
            start = stream.read(16)
    except OSError as error:
        raise NodeError(f"cannot read {file}: {error.strerror or error}") from error
    if start.startswith(b"GGUF"):
        return gguf_header.read(file)
    if start.startswith(PICKLE_STARTS):
        raise NodeError(
            f"{file} is a pickled file, which can run code when it is read",
            help="get the checkpoint as safetensors or GGUF, or convert it on a machine without important data",
        )
    if start.startswith(GGML_STARTS):
        raise NodeError(f"{file} is a GGML file, the format before GGUF", help="get the checkpoint as GGUF")
    if not start:
        raise NodeError(f"{file} is empty", help=AGAIN)
    if start.startswith(b"version https://"):
        raise NodeError(
            f"{file} is a pointer of Git LFS, not the file itself", help="run `git lfs pull`, or download it"
        )
    if not 2 <= int.from_bytes(start[:8], "little") <= 2**32 or not start[8:].lstrip().startswith(b"{"):
        raise NodeError(
            f"{file} is neither a safetensors file nor a GGUF file",
            help="a checkpoint is one file in either format; other formats are not read",
        )
    return _safetensors(file)


def _safetensors(file: Path) -> CheckpointHeader:
    content: dict[str, Any] = weight_files.header(file)
    metadata = content.pop("__metadata__", None)
    with file.open("rb") as stream:
        first = 8 + int.from_bytes(stream.read(8), "little")
    tensors = {}
    for name, entry in content.items():
        begin, end = _place(file, name, entry)
        tensors[name] = StoredTensor(entry["dtype"], tuple(entry["shape"]), first + begin, end - begin)
    known = metadata if isinstance(metadata, Mapping) else {}
    return CheckpointHeader(file, "safetensors", tensors, {k: v for k, v in known.items() if isinstance(v, str)})


def _place(file: Path, name: str, entry: Mapping[str, Any]) -> tuple[int, int]:
    """Begin and end of a tensor after the header, checked against its shape."""
    offsets = entry.get("data_offsets")
    if not (isinstance(offsets, list) and len(offsets) == 2 and all(type(number) is int for number in offsets)):
        raise NodeError(f"{file}: the place of the tensor {name} cannot be read", help=AGAIN)
    begin, end = offsets
    width = SAFETENSORS_BYTES.get(entry["dtype"])
    if not 0 <= begin <= end or (width is not None and end - begin != prod(entry["shape"]) * width):
        raise NodeError(f"{file}: the tensor {name} takes {end - begin} bytes, which its shape does not", help=AGAIN)
    return begin, end


def layer_formats(header: CheckpointHeader) -> dict[str, str]:
    """The quantisation formats that a file of ComfyUI states for its layers, by the layers' names in the file.

    It states them in its metadata (`_quantization_metadata`), or in a small tensor of each layer (`comfy_quant`), both
    as JSON. A statement that cannot be read has the format `unknown`.
    """
    found: dict[str, str] = {}
    stated = header.metadata.get("_quantization_metadata")
    if stated is not None:
        layers = _json(stated).get("layers")
        found |= {name: _format(of) for name, of in layers.items()} if isinstance(layers, Mapping) else {"": "unknown"}
    with header.file.open("rb") as stream:
        for name, tensor in header.tensors.items():
            if name.endswith(".comfy_quant"):
                stream.seek(tensor.start)
                found[name.removesuffix(".comfy_quant")] = _format(_json(stream.read(min(tensor.size, 4096))))
    return found


def _json(text: str | bytes) -> Mapping[str, Any]:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return content if isinstance(content, Mapping) else {}


def _format(stated: Any) -> str:
    name = stated.get("format") if isinstance(stated, Mapping) else None
    return name if isinstance(name, str) else "unknown"
