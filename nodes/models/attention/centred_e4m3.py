"""Queries, keys and values in e4m3, with one scale for each head, and values around their mean.

On Hopper the sums of products of e4m3 have fewer bits than float32. Over many keys, a part that all values of a head
have in common is then lost. So a constant is subtracted from the values and added to the result, which is exact for any
constant, since the weights of the keys have the sum 1. SageAttention 2 (arXiv 2411.10958) does the same.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..row_kernels import rows
from ..row_kernels.quantized_rows import LARGEST, LEAST

EVERY = 8
"""The mean is that of every eighth key; it need only be near."""


@dataclass(frozen=True)
class CentredHeads:
    """The operands of one attention call.

    Attributes:
        query: [B, tokens, heads, width], e4m3.
        key: The same for the keys.
        value: The same for the values, minus `means`.
        query_scales: Factor of each head, [B, heads], float32.
        key_scales: The same for the keys.
        value_scales: The same for the values.
        means: Constant of each head, [B, heads, width], float32.
    """

    query: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor
    query_scales: torch.Tensor
    key_scales: torch.Tensor
    value_scales: torch.Tensor
    means: torch.Tensor


def centred_e4m3(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> CentredHeads:
    """Quantise the operands of attention, [B, tokens, heads, width] each."""
    means = value[:, ::EVERY].float().mean(dim=1)
    query_largest, key_largest = _largest(query), _largest(key)
    value_largest = _largest(value) + means.abs().amax(-1)  # a bound of the values minus their mean
    query_scales, key_scales, value_scales = (
        each.clamp_min(LEAST) / LARGEST["fp8"] for each in (query_largest, key_largest, value_largest)
    )
    return CentredHeads(
        rows.quantized_heads(query, query_scales, None),
        rows.quantized_heads(key, key_scales, None),
        rows.quantized_heads(value, value_scales, means),
        query_scales,
        key_scales,
        value_scales,
        means,
    )


def _largest(x: torch.Tensor) -> torch.Tensor:
    """Largest value of each head of [B, tokens, heads, width]: [B, heads], float32."""
    found: torch.Tensor = torch.linalg.vector_norm(x, ord=float("inf"), dim=(1, 3)).float()
    return found
