"""The header of a safetensors file: names, shapes and dtypes of its tensors, and its metadata. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from ..repository import weight_files

UNREADABLE = ("C64", "F4", "F6_E2M3", "F6_E3M2")
"""Dtypes of safetensors that torch cannot read as real numbers."""


class TensorHeader(NamedTuple):
    """Dtype (as safetensors writes it) and shape of one tensor."""

    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class AdapterHeader:
    """The tensors of one file by name, and its metadata."""

    tensors: Mapping[str, TensorHeader]
    metadata: Mapping[str, str]


def read(file: Path) -> AdapterHeader:
    """Read the header of a file.

    Raises:
        NodeError: If the file is truncated, or is not a safetensors file.
    """
    content = weight_files.header(file)
    metadata = content.pop("__metadata__", None)
    return AdapterHeader(
        {name: TensorHeader(entry["dtype"], tuple(entry["shape"])) for name, entry in content.items()},
        metadata if isinstance(metadata, dict) else {},
    )
