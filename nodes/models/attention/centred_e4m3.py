"""Queries, keys and values in e4m3, with one scale for each head, and values around their mean.

On Hopper the sums of products of e4m3 have fewer bits than float32. Over many keys, a part that all values of a head
have in common is then lost. So a constant is subtracted from the values and added to the result, which is exact for any
constant, since the weights of the keys have the sum 1. SageAttention 2 (arXiv 2411.10958) does the same.

The scale of queries and keys comes from the weights of their norms, if these are known (`head_norms`), and needs no
pass over them. Such a scale is larger than one that is measured. e4m3 is a format of floats, so that only numbers near
zero, below 2^-15 of the bound, lose bits by this.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..row_kernels import heads
from ..row_kernels.head_norms import HeadNorms
from ..row_kernels.head_twins import largest
from ..row_kernels.quantized_rows import LARGEST, LEAST


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


def centred_e4m3(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, norms: HeadNorms | None = None
) -> CentredHeads:
    """Quantise the operands of attention, [B, tokens, heads, width] each.

    Args:
        query: The queries. Elements of a head are contiguous, here and in the others.
        key: The keys.
        value: The values.
        norms: The norms through which queries and keys went; None measures their largest magnitudes.
    """
    means, value_scales = heads.centre_and_scales(value)
    query_scales, key_scales = _measured(query, key) if norms is None else _known(query, key, norms)
    return CentredHeads(
        heads.quantized_heads(query, query_scales, None),
        heads.quantized_heads(key, key_scales, None),
        heads.quantized_heads(value, value_scales, means),
        query_scales,
        key_scales,
        value_scales,
        means,
    )


def _measured(*tensors: torch.Tensor) -> list[torch.Tensor]:
    """Scales by which the largest magnitude of a head becomes the largest number of e4m3, [B, H] each."""
    return [largest(x).clamp_min(LEAST) / LARGEST["fp8"] for x in tensors]


def _known(query: torch.Tensor, key: torch.Tensor, norms: HeadNorms) -> list[torch.Tensor]:
    """Scales by the bounds of the norms, the same for all heads: [B, H] each, without a copy."""
    pairs = zip((query, key), norms.e4m3_scales, strict=True)
    return [scale.expand(x.shape[0], x.shape[2]) for x, scale in pairs]
