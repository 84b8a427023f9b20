"""Heads of attention in e4m3, for any device. `head_twins` documents shapes and formulas."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch

from . import head_twins
from .rows import writes_e4m3


@cache
def _triton() -> Any:
    from . import head_triton

    return head_triton


def _code(x: torch.Tensor) -> Any:
    return _triton() if writes_e4m3(x.device) else head_twins


def quantized_heads(x: torch.Tensor, scales: torch.Tensor, means: torch.Tensor | None) -> torch.Tensor:
    """Heads in e4m3, (x - mean) / scale: `head_twins.quantized_heads`."""
    made: torch.Tensor = _code(x).quantized_heads(x, scales, means)
    return made


def centre_and_scales(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Means of heads, and scales of x - mean: `head_twins.centre_and_scales`."""
    made: tuple[torch.Tensor, torch.Tensor] = _code(x).centre_and_scales(x)
    return made


def add_means_(x: torch.Tensor, means: torch.Tensor) -> torch.Tensor:
    """The sum of heads and their means, in place: `head_twins.add_means_`."""
    dense = x.stride()[2:] == (x.shape[3], 1)
    made: torch.Tensor = (_code(x) if dense else head_twins).add_means_(x, means)
    return made
