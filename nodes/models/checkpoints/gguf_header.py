"""The header of a GGUF file, versions 2 and 3. Torch-free.

The ggml project describes the format in its page on GGUF. The `gguf` package has a reader too; it imports numpy, keeps
every value of the metadata, which takes seconds for a file with a tokenizer, and does not find truncated files.
"""

from __future__ import annotations

import struct
from math import prod
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from ....graph.contract.errors import NodeError
from .stored_tensors import AGAIN, BLOCK_TYPES, CheckpointHeader, StoredTensor

NUMBERS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
"""Types of numbers in the metadata."""

STRING, ARRAY = 8, 9
"""Types of texts and arrays in the metadata."""

ALIGNMENT = 32
"""Alignment of tensors in a file whose metadata gives none."""

ORIGINAL_SHAPE = "comfy.gguf.orig_shape."
"""Metadata of a tensor that the converter of ComfyUI-GGUF wrote in another shape."""

MOST_DIMENSIONS = 8
MOST_ENTRIES = 2**24
"""A file with more tensors, texts or numbers in one array is damaged."""


def read(file: Path) -> CheckpointHeader:
    """Read the header of a GGUF file.

    Raises:
        NodeError: If the file is truncated or damaged, or has another version.
    """
    try:
        with file.open("rb") as stream:
            return _Reader(file, stream).header()
    except OSError as error:
        raise NodeError(f"cannot read {file}: {error.strerror or error}") from error


class _Reader:
    """Reads one header, and never past the end of the file."""

    def __init__(self, file: Path, stream: BinaryIO) -> None:
        self.file = file
        self.stream = stream
        self.size = file.stat().st_size

    def header(self) -> CheckpointHeader:
        self.take(4)
        version = self.number("<I")
        if version not in (2, 3):
            swapped = int.from_bytes(version.to_bytes(4, "little"), "big") in (2, 3)
            kind = "a GGUF file for big-endian machines" if swapped else f"a GGUF file of version {version}"
            raise NodeError(f"{self.file} is {kind}; versions 2 and 3 are read, in little-endian order")
        tensors, entries = self.count(), self.count()
        metadata = {}
        for _ in range(entries):
            name = self.text()
            metadata[name] = self.value(self.number("<I"))
        alignment = metadata.get("general.alignment", ALIGNMENT)
        if not isinstance(alignment, int) or not 0 < alignment <= 2**20:
            self.damaged("its alignment is not a number")
        places = [self.tensor() for _ in range(tensors)]
        first = -(-self.stream.tell() // alignment) * alignment
        found: dict[str, StoredTensor] = {}
        for name, dtype, shape, offset, size in places:
            end = first + offset + size
            if end > self.size:
                raise NodeError(
                    f"{self.file} is truncated: {self.size} bytes, and the tensor {name} ends at {end}", help=AGAIN
                )
            if name in found:
                self.damaged(f"it has two tensors {name}")
            original = metadata.get(ORIGINAL_SHAPE + name)
            if isinstance(original, list) and all(isinstance(n, int) and n >= 0 for n in original):
                if prod(original) != prod(shape):
                    self.damaged(f"the tensor {name} has another size than its original shape")
                shape = tuple(original)
            found[name] = StoredTensor(dtype, shape, first + offset, size)
        texts = {name: value for name, value in metadata.items() if isinstance(value, str)}
        return CheckpointHeader(self.file, "gguf", found, texts)

    def tensor(self) -> tuple[str, str, tuple[int, ...], int, int]:
        """Name, type, shape, offset and bytes of the next tensor."""
        name, dimensions = self.text(), self.number("<I")
        if dimensions > MOST_DIMENSIONS:
            self.damaged(f"the tensor {name} has {dimensions} dimensions")
        sizes = [self.number("<Q") for _ in range(dimensions)]
        number, offset = self.number("<I"), self.number("<Q")
        kind = BLOCK_TYPES.get(number)
        if kind is None:
            raise NodeError(
                f"{self.file}: the tensor {name} has the GGUF type {number}, which is not known",
                help="get the checkpoint in another quantisation, such as Q8_0 or Q4_K",
            )
        if sizes and sizes[0] % kind.numbers:
            self.damaged(f"the rows of the tensor {name} are not whole blocks of {kind.name}")
        shape = tuple(reversed(sizes))  # GGUF writes the fastest dimension first
        return name, kind.name, shape, offset, prod(shape) // kind.numbers * kind.size

    def value(self, kind: int) -> Any:
        """A value of the metadata; None for an array of texts or arrays, which nothing reads."""
        if kind in NUMBERS:
            return self.number(NUMBERS[kind])
        if kind == STRING:
            return self.text()
        if kind != ARRAY:
            self.damaged(f"its metadata has a value of the type {kind}")
        inner, count = self.number("<I"), self.count()
        if inner in NUMBERS:
            width = struct.calcsize(NUMBERS[inner])
            content = self.take(count * width)
            if count > MOST_DIMENSIONS:
                return None
            return [number for (number,) in struct.iter_unpack(NUMBERS[inner], content)]
        if inner == ARRAY:
            self.damaged("its metadata has an array of arrays")
        for _ in range(count):
            self.text_bytes()
        return None

    def count(self) -> int:
        number: int = self.number("<Q")
        if number > MOST_ENTRIES:
            self.damaged(f"it states {number} entries")
        return number

    def text(self) -> str:
        try:
            return self.text_bytes().decode()
        except UnicodeDecodeError:
            self.damaged("it has a name that is not text")

    def text_bytes(self) -> bytes:
        length: int = self.number("<Q")
        if length > MOST_ENTRIES:
            self.damaged(f"it has a text of {length} bytes")
        return self.take(length)

    def number(self, form: str) -> Any:
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def take(self, length: int) -> bytes:
        content = self.stream.read(length) if length <= self.size else b""
        if len(content) != length:
            raise NodeError(f"{self.file} is truncated: {self.size} bytes, its header is not whole", help=AGAIN)
        return content

    def damaged(self, reason: str) -> NoReturn:
        raise NodeError(f"{self.file} is a damaged GGUF file: {reason}", help=AGAIN)
