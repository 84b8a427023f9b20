"""Attention of one head with many channels, for which no fused kernel exists."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

SCORES = 2**28
"""Most attention scores that are held at a time."""


def attend(query: Tensor, key: Tensor, value: Tensor, out: Tensor) -> None:
    """Write to `out` the attention of queries, [L, C], to keys and values, [N, C]."""
    step = max(128, SCORES // len(key))
    scaled = query * query.shape[-1] ** -0.5
    for start in range(0, len(query), step):
        scores = torch.mm(scaled[start : start + step], key.T)
        torch.mm(torch.softmax(scores, -1), value, out=out[start : start + step])
