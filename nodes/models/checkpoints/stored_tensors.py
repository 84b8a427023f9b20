"""The tensors of a one-file checkpoint as its header describes them. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

AGAIN = "the copy is damaged or incomplete: delete the file and download it again"

SAFETENSORS_BYTES = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ", "F8_E8M0"), 1),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 2),
    **dict.fromkeys(("U32", "I32", "F32"), 4),
    **dict.fromkeys(("U64", "I64", "F64", "C64"), 8),
}
"""Bytes of one number, by the dtype's name in safetensors."""

FP8 = ("F8_E4M3", "F8_E5M2")

FLOATS = ("F64", "F32", "F16", "BF16", *FP8)
"""Dtypes of weights that are numbers as they stand; an fp8 weight may have a scale beside it."""


class BlockType(NamedTuple):
    """A type of GGML: numbers in one block, and the block's bytes."""

    name: str
    numbers: int
    size: int


BLOCK_TYPES: Mapping[int, BlockType] = {
    number: BlockType(*entry)
    for number, entry in {
        0: ("F32", 1, 4),
        1: ("F16", 1, 2),
        2: ("Q4_0", 32, 18),
        3: ("Q4_1", 32, 20),
        6: ("Q5_0", 32, 22),
        7: ("Q5_1", 32, 24),
        8: ("Q8_0", 32, 34),
        9: ("Q8_1", 32, 40),
        10: ("Q2_K", 256, 84),
        11: ("Q3_K", 256, 110),
        12: ("Q4_K", 256, 144),
        13: ("Q5_K", 256, 176),
        14: ("Q6_K", 256, 210),
        15: ("Q8_K", 256, 292),
        16: ("IQ2_XXS", 256, 66),
        17: ("IQ2_XS", 256, 74),
        18: ("IQ3_XXS", 256, 98),
        19: ("IQ1_S", 256, 50),
        20: ("IQ4_NL", 32, 18),
        21: ("IQ3_S", 256, 110),
        22: ("IQ2_S", 256, 82),
        23: ("IQ4_XS", 256, 136),
        24: ("I8", 1, 1),
        25: ("I16", 1, 2),
        26: ("I32", 1, 4),
        27: ("I64", 1, 8),
        28: ("F64", 1, 8),
        29: ("IQ1_M", 256, 56),
        30: ("BF16", 1, 2),
        34: ("TQ1_0", 256, 54),
        35: ("TQ2_0", 256, 66),
        39: ("MXFP4", 32, 17),
    }.items()
}
"""Types of GGML by their number in a file, from `ggml.h`."""

TORCH_TYPES = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS")
"""Block types that diffusers dequantises with torch."""

NUMPY_TYPES = (
    *("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S"),
    *("TQ1_0", "TQ2_0", "MXFP4"),
)
"""Block types that only the gguf package dequantises, with numpy."""

BLOCKS: Mapping[str, BlockType] = {
    kind.name: kind for kind in BLOCK_TYPES.values() if kind.name in (*TORCH_TYPES, *NUMPY_TYPES)
}
"""The block types that can be read, by name."""


class StoredTensor(NamedTuple):
    """One tensor of a file.

    Attributes:
        dtype: Its dtype as safetensors names it, or its block type as GGML names it.
        shape: Its shape, output channels first.
        start: Its first byte in the file.
        size: Its number of bytes.
    """

    dtype: str
    shape: tuple[int, ...]
    start: int
    size: int


@dataclass(frozen=True)
class CheckpointHeader:
    """The header of one file.

    Attributes:
        file: The file.
        format: `safetensors` or `gguf`.
        tensors: Its tensors by name.
        metadata: Texts of its metadata.
    """

    file: Path
    format: Literal["safetensors", "gguf"]
    tensors: Mapping[str, StoredTensor]
    metadata: Mapping[str, str]

    def dtypes(self) -> dict[str, int]:
        """The number of tensors of each dtype."""
        found: dict[str, int] = {}
        for tensor in self.tensors.values():
            found[tensor.dtype] = found.get(tensor.dtype, 0) + 1
        return found
