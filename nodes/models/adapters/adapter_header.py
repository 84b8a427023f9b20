"""The head of an adapter file: names, shapes and dtypes of its tensors, its alphas, and its settings. Torch-free.

peft keeps the settings in `adapter_config.json`, a file beside its own; other programs keep them in the metadata.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from ..repository import weight_files
from ..repository.repository import read_json

UNREADABLE = ("C64", "F4", "F6_E2M3", "F6_E3M2")
"""Dtypes of safetensors that torch cannot read as real numbers."""

CONFIG = "adapter_config.json"
PEFT_FILE = "adapter_model.safetensors"
"""Names that peft gives to its files."""

FORMATS = {"F16": "<e", "F32": "<f", "F64": "<d"}
"""Formats of the `struct` module, by dtype."""


class TensorHeader(NamedTuple):
    """Dtype (as safetensors writes it) and shape of one tensor."""

    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class AdapterHeader:
    """The head of one file.

    Attributes:
        tensors: Dtype and shape of each tensor, by name.
        metadata: Its metadata.
        alphas: Values of the tensors that hold one number and have a name that ends in `alpha`.
        config: The content of peft's configuration; empty if the file has none.
    """

    tensors: Mapping[str, TensorHeader]
    metadata: Mapping[str, str]
    alphas: Mapping[str, float] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)


def read(file: Path) -> AdapterHeader:
    """Read the head of a file, and peft's configuration beside it.

    Raises:
        NodeError: If the file is truncated, or no safetensors file, or the configuration cannot be read.
    """
    content = weight_files.header(file)
    metadata = content.pop("__metadata__", None)
    tensors = {name: TensorHeader(entry["dtype"], tuple(entry["shape"])) for name, entry in content.items()}
    alphas: dict[str, float] = {}
    with file.open("rb") as stream:
        start = 8 + int.from_bytes(stream.read(8), "little")
        for name, (dtype, shape) in tensors.items():
            if name.endswith("alpha") and prod(shape) == 1:
                alphas[name] = _number(stream, start, dtype, content[name]["data_offsets"])
    return AdapterHeader(tensors, metadata or {}, alphas, _config(file))


def _config(file: Path) -> Mapping[str, Any]:
    """peft's configuration in the folder of a file, if it is for this file."""
    path = file.parent / CONFIG
    if not path.is_file():
        return {}
    alone = all(other == file for other in file.parent.glob("*.safetensors"))
    return read_json(path) if alone or file.name == PEFT_FILE else {}


def _number(stream: BinaryIO, start: int, dtype: str, place: tuple[int, int]) -> float:
    """The value of a tensor of one number; NaN for a dtype that is no real number."""
    stream.seek(start + place[0])
    raw = stream.read(place[1] - place[0])
    if dtype in FORMATS:
        return float(struct.unpack(FORMATS[dtype], raw)[0])
    if dtype == "BF16":
        return float(struct.unpack("<f", bytes(2) + raw)[0])
    if dtype == "F8_E5M2":
        return float(struct.unpack("<e", bytes(1) + raw)[0])
    if dtype in FLOAT8:
        return FLOAT8[dtype].value(raw[0])
    if dtype in UNREADABLE:
        return float("nan")
    return float(int.from_bytes(raw, "little", signed=dtype.startswith("I")))


class Float8(NamedTuple):
    """A float of 8 bits that the standard library cannot unpack.

    Attributes:
        mantissa: Bits of its mantissa.
        bias: Subtracted from its exponent.
        nan: The bit patterns of NaN.
    """

    mantissa: int
    bias: int
    nan: tuple[int, ...]

    def value(self, bits: int) -> float:
        if bits in self.nan:
            return float("nan")
        if not self.mantissa:
            return 2.0 ** (bits - self.bias)  # has no sign
        exponent, rest = (bits & 0x7F) >> self.mantissa, (bits & ((1 << self.mantissa) - 1)) / (1 << self.mantissa)
        size = rest * 2.0 ** (1 - self.bias) if exponent == 0 else (1 + rest) * 2.0 ** (exponent - self.bias)
        return -size if bits & 0x80 else size


FLOAT8 = {
    "F8_E4M3": Float8(3, 7, (0x7F, 0xFF)),
    "F8_E4M3FNUZ": Float8(3, 8, (0x80,)),
    "F8_E5M2FNUZ": Float8(2, 16, (0x80,)),
    "F8_E8M0": Float8(0, 127, (0xFF,)),
}
"""Source: the OCP specifications of 8-bit floats and of microscaling formats; FNUZ has one NaN and no infinity."""
