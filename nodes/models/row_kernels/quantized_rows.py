"""Rows of numbers of 8 bits with one scale each, in plain torch: the meaning of the formats, and the code of a CPU."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch.nn import functional as F

Format = Literal["fp8", "int8"]

LARGEST: Mapping[Format, float] = {"fp8": 448.0, "int8": 127.0}
"""The largest number of each format: that of e4m3 (one bit of sign, four of exponent, three of mantissa), or 127."""

LEAST = 1e-12
"""Least value that counts as the largest of a row, so that a row of zeros has a scale."""


@dataclass(frozen=True)
class QuantizedRows:
    """A sequence in 8 bits.

    Attributes:
        values: [..., D] in `float8_e4m3fn` or `int8`.
        scales: Factor of each row, [..., 1], float32.
        format: The format of the values.
        dtype: Dtype of the sequence before, and of products with it.
    """

    values: torch.Tensor
    scales: torch.Tensor
    format: Format
    dtype: torch.dtype

    @property
    def shape(self) -> torch.Size:
        return self.values.shape

    def part(self, sequence: int, start: int, stop: int) -> QuantizedRows:
        """Rows `start` to `stop` of one sequence of [B, S, D]."""
        values, scales = self.values[sequence, start:stop], self.scales[sequence, start:stop]
        return QuantizedRows(values, scales, self.format, self.dtype)

    def flat(self) -> QuantizedRows:
        """All rows of [..., D] one after the other: [rows, D]."""
        values, scales = self.values.reshape(-1, self.values.shape[-1]), self.scales.reshape(-1, 1)
        return QuantizedRows(values, scales, self.format, self.dtype)

    def filled(self, count: int) -> QuantizedRows:
        """These rows, [rows, D], padded with rows of zeros to [count, D]."""
        lacking = (0, 0, 0, count - len(self.values))
        numbers = F.pad(self.values.view(torch.int8), lacking).view(self.values.dtype)
        return QuantizedRows(numbers, F.pad(self.scales, lacking), self.format, self.dtype)

    def floats(self) -> torch.Tensor:
        """The values that the numbers stand for, [..., D], float32."""
        return self.values.float() * self.scales


def number_type(format: Format) -> torch.dtype:
    """The dtype of a format's numbers."""
    return torch.float8_e4m3fn if format == "fp8" else torch.int8


def rounded(values: torch.Tensor, format: Format) -> torch.Tensor:
    """Float32 values in the range of a format as its nearest numbers."""
    return (values if format == "fp8" else values.round()).to(number_type(format))


def quantized(x: torch.Tensor, format: Format, dtype: torch.dtype | None = None) -> QuantizedRows:
    """Rows [..., D] in 8 bits. The largest value of a row becomes the largest number of the format.

    Args:
        x: The rows.
        format: The format.
        dtype: Dtype of products with the rows; None for that of `x`.
    """
    dtype, x = dtype or x.dtype, x.float()
    scales = x.abs().amax(-1, keepdim=True).clamp_min(LEAST) / LARGEST[format]
    return QuantizedRows(rounded(x / scales, format), scales, format, dtype)


def quantized_side_by_side(
    a: torch.Tensor | None, b: torch.Tensor | None, format: Format, *, gelu: bool
) -> QuantizedRows:
    """Rows of `a` and `b` side by side, in 8 bits.

    Args:
        a: [..., m], or None.
        b: [..., n], or None; with `gelu`, its GELU by the tanh formula, computed in float32.
        format: The format.
        gelu: Whether `b` goes through the activation.

    Returns:
        [..., m + n].
    """
    parts = [] if a is None else [a]
    if b is not None:
        parts.append(F.gelu(b.float(), approximate="tanh") if gelu else b)
    dtype = (b if a is None else a).dtype  # type: ignore[union-attr]
    return quantized(parts[0] if len(parts) == 1 else torch.cat([p.float() for p in parts], dim=-1), format, dtype)
