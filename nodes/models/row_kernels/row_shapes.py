"""The row kernels on the meta device, for plans: their results without values, and none of the twins' temporaries."""

from __future__ import annotations

from typing import Any

import torch


def norm(x: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
    """See `row_twins.norm`."""
    return x.new_empty(x.shape)


def add_norm(x: torch.Tensor, *_: Any, **__: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """See `row_twins.add_norm`."""
    return x.new_empty(x.shape), x.new_empty(x.shape)


def add(x: torch.Tensor, *_: Any, in_place: bool = False, **__: Any) -> torch.Tensor:
    """See `row_twins.add`."""
    return x if in_place else x.new_empty(x.shape)


def query_key_(*_: Any, **__: Any) -> None:
    """See `row_twins.query_key_`."""


def silu_product(pairs: torch.Tensor) -> torch.Tensor:
    """See `row_twins.silu_product`."""
    return pairs.new_empty(*pairs.shape[:-1], pairs.shape[-1] // 2)
