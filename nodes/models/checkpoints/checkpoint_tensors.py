"""Reads the numbers of a checkpoint's tensors, a part at a time.

Quantised numbers are computed in float32 and cast once. A part in memory has at most `CHUNK` numbers, so that reading a
component takes little more than the component itself. The file is read, and not mapped: its pages belong to no tensor.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from math import prod
from typing import Any

import torch

from ....graph.contract.errors import NodeError
from .checkpoint_match import CheckpointMatch, Part
from .stored_tensors import AGAIN, BLOCKS, TORCH_TYPES, CheckpointHeader, StoredTensor

CHUNK = 2**20
"""Most numbers that are computed at a time, but for a longer row with a scale: 4 MiB in float32."""

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}


class TensorReader:
    """Reads parameters from one file, which is open inside `with`.

    Args:
        header: The file's header.
        match: The parts of the file that make up each parameter.
        device: Where quantised numbers are computed, such as `cpu` or `cuda`.
    """

    def __init__(self, header: CheckpointHeader, match: CheckpointMatch, device: str) -> None:
        self.header = header
        self.match = match
        self.device = device

    def __enter__(self) -> TensorReader:
        try:
            self.stream = self.header.file.open("rb", buffering=0)
        except OSError as error:
            raise NodeError(f"cannot read {self.header.file}: {error.strerror or error}") from error
        return self

    def __exit__(self, *_: object) -> None:
        self.stream.close()

    def parameter(self, name: str, shape: Sequence[int], dtype: torch.dtype, device: str) -> torch.Tensor:
        """A parameter.

        Args:
            name: Its name.
            shape: Its shape.
            dtype: Its dtype.
            device: Where it goes.

        Raises:
            NodeError: If the file changed since its header was read.
        """
        made = torch.empty(tuple(shape), dtype=dtype, device=device)
        flat = made.view(-1)
        width = made.numel() // max(shape[0] if shape else 1, 1)
        rows = shape[0] if shape else 1
        for part in self.match.parts[name]:
            # A whole tensor may have sizes of 1 that the parameter has not, and so other rows.
            whole = part.rows == rows and prod(self.header.tensors[part.key].shape) == made.numel()
            begin = 0 if whole else part.at * width
            for numbers in self._numbers(part, whole, device):
                flat[begin : begin + numbers.numel()].copy_(numbers)
                begin += numbers.numel()
            heads = self.match.heads.get(part.key)
            if heads is not None:
                made = _without_pairs(made, heads)
        return made

    def _numbers(self, part: Part, whole: bool, target: str) -> Iterator[torch.Tensor]:
        """The numbers of some rows of a stored tensor, one after the other in a few flat tensors.

        Numbers that need no computation go to the target at once.
        """
        stored = self.header.tensors[part.key]
        count = prod(stored.shape)
        width = count // max(stored.shape[0] if stored.shape else 1, 1)
        start, stop = (0, count) if whole else (part.start * width, (part.start + part.rows) * width)
        scale = self._scale(part.key)
        device = self.device if stored.dtype in BLOCKS or scale is not None else target
        by_row = scale is not None and scale.numel() > 1
        unit = width if by_row else 1
        step = max(CHUNK // max(unit, 1), 1) * unit
        for first in range(start, stop, max(step, 1)):
            last = min(first + step, stop)
            numbers = self._read(part.key, stored, first, last, device)
            if scale is None:
                yield numbers
            elif by_row:
                rows = scale[first // width : last // width]
                yield (numbers.float().view(-1, width) * rows.unsqueeze(1)).view(-1)
            else:
                yield numbers.float() * scale

    def _scale(self, key: str) -> torch.Tensor | None:
        """The scale of a stored tensor, flat and in float32; None if it has none."""
        name = self.match.scales.get(key)
        if name is None:
            return None
        stored = self.header.tensors[name]
        return self._read(name, stored, 0, prod(stored.shape), self.device).float()

    def _read(self, key: str, stored: StoredTensor, start: int, stop: int, device: str) -> torch.Tensor:
        """Numbers `start` to `stop` of a stored tensor, flat: in float32 if it is quantised, else in its own dtype."""
        kind = BLOCKS.get(stored.dtype)
        if kind is not None:
            first, last = start // kind.numbers, math.ceil(stop / kind.numbers)
            content = self._bytes(stored.start + first * kind.size, (last - first) * kind.size)
            numbers = _dequantised(stored.dtype, content.to(device).view(-1, kind.size)).view(-1)
            return numbers[start - first * kind.numbers : stop - first * kind.numbers]
        dtype = DTYPES[self.match.kinds.get(key, stored.dtype)]
        content = self._bytes(stored.start + start * dtype.itemsize, (stop - start) * dtype.itemsize)
        return content.view(dtype).to(device)

    def _bytes(self, start: int, size: int) -> torch.Tensor:
        """Bytes of the file."""
        content = torch.empty(size, dtype=torch.uint8)
        view: Any = memoryview(content.numpy())  # type: ignore[arg-type]
        try:
            self.stream.seek(start)
            done = 0
            while done < size:
                read = self.stream.readinto(view[done:])
                if not read:
                    raise NodeError(f"{self.header.file} was truncated while it was read", help=AGAIN)
                done += read
        except OSError as error:
            raise NodeError(f"cannot read {self.header.file}: {error.strerror or error}") from error
        return content


def _dequantised(name: str, blocks: torch.Tensor) -> torch.Tensor:
    """The numbers of blocks [n, bytes] in float32, [n, numbers]."""
    import gguf

    kind = gguf.GGMLQuantizationType[name]
    if name in TORCH_TYPES:
        from diffusers.quantizers.gguf.utils import dequantize_functions

        numbers, size = gguf.GGML_QUANT_SIZES[kind]
        made: torch.Tensor = dequantize_functions[kind](blocks, numbers, size, torch.float32)
        return made
    import numpy

    with numpy.errstate(all="ignore"):  # numbers beyond float16 in a damaged file; the run finds what is not finite
        array: Any = gguf.quants.dequantize(blocks.cpu().numpy(), kind)
    return torch.from_numpy(array).to(blocks.device)


def _without_pairs(made: torch.Tensor, heads: int) -> torch.Tensor:
    """Rows that llama.cpp keeps as pairs of a rotation, in the order of transformers: its first halves, its second."""
    rows = made.shape[0]
    return made.view(heads, rows // heads // 2, 2, -1).transpose(1, 2).reshape(made.shape).contiguous()
