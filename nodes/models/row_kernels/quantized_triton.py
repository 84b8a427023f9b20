"""Kernels in Triton that write e4m3. The formulas are those of `quantized_rows`, up to rounding."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

from ...support.kernel_launch import launch
from .quantized_rows import QuantizedRows

WIDE = 4096
"""Rows of more elements get eight warps instead of four."""


@triton.jit
def _quantize(  # type: ignore[no-untyped-def]
    A, B, OUT, SCALES, a_row, b_row,
    M: tl.constexpr, N: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, GELU: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    largest = 1e-12
    if M > 0:
        at = tl.arange(0, BLOCK_M)
        a = tl.load(A + row * a_row + at, mask=at < M, other=0.0).to(tl.float32)
        largest = tl.maximum(largest, tl.max(tl.abs(a), 0))
    if N > 0:
        beside = tl.arange(0, BLOCK_N)
        b = tl.load(B + row * b_row + beside, mask=beside < N, other=0.0).to(tl.float32)
        if GELU:
            # b / 2 · (1 + tanh(√(2/π) (b + 0.044715 b³))), where (1 + tanh z) / 2 = sigmoid(2 z)
            b = b * tl.sigmoid(1.5957691216057308 * (b + 0.044715 * b * b * b))
        largest = tl.maximum(largest, tl.max(tl.abs(b), 0))
    tl.store(SCALES + row, largest / 448.0)
    factor = 448.0 / largest
    if M > 0:
        tl.store(OUT + row * (M + N) + at, (a * factor).to(OUT.dtype.element_ty), mask=at < M)
    if N > 0:
        tl.store(OUT + row * (M + N) + M + beside, (b * factor).to(OUT.dtype.element_ty), mask=beside < N)


def _flat(x: torch.Tensor) -> torch.Tensor:
    """The rows of a sequence one after the other, [rows, D]."""
    return x.reshape(-1, x.shape[-1])


def quantized_side_by_side(a: torch.Tensor | None, b: torch.Tensor | None, *, gelu: bool) -> QuantizedRows:
    """See `quantized_rows.quantized_side_by_side`, for fp8."""
    given = a if a is not None else b
    assert given is not None
    left, right = (_flat(x) if x is not None else _flat(given) for x in (a, b))
    m, n = (0 if x is None else x.shape[-1] for x in (a, b))
    values = torch.empty((*given.shape[:-1], m + n), device=given.device, dtype=torch.float8_e4m3fn)
    scales = torch.empty((*given.shape[:-1], 1), device=given.device, dtype=torch.float32)
    arguments: Any = left, right, values, scales, left.stride(0), right.stride(0)
    launch(
        _quantize, (left.shape[0],),
        *arguments, M=m, N=n, BLOCK_M=triton.next_power_of_2(max(m, 16)), BLOCK_N=triton.next_power_of_2(max(n, 16)),
        GELU=gelu, num_warps=8 if m + n > WIDE else 4,
    )  # fmt: skip
    return QuantizedRows(values, scales, "fp8", given.dtype)
