"""The row kernels for any device. `row_twins` documents shapes and formulas."""

from __future__ import annotations

import importlib.util
import math
from functools import cache
from typing import Any

import torch

from . import row_shapes, row_twins
from .row_twins import Kind


@cache
def has_triton() -> bool:
    """Whether the package triton is installed."""
    return importlib.util.find_spec("triton") is not None


@cache
def _triton() -> Any:
    from . import row_triton

    return row_triton


def on_kernels(tensor: torch.Tensor) -> bool:
    """Whether a call with this tensor goes to Triton."""
    return tensor.is_cuda and has_triton()


def _code(tensor: torch.Tensor) -> Any:
    """The module that computes with this tensor."""
    if tensor.is_meta:
        return row_shapes
    return _triton() if on_kernels(tensor) else row_twins


def norm(
    x: torch.Tensor,
    scale: torch.Tensor,
    shift: torch.Tensor | None,
    *,
    kind: Kind = "layer",
    eps: float = 1e-6,
    plus_one: bool = True,
    first: int = 0,
) -> torch.Tensor:
    """Normalised and modulated rows: `row_twins.norm`."""
    made: torch.Tensor = _code(x).norm(x, scale, shift, kind=kind, eps=eps, plus_one=plus_one, first=first)
    return made


def add_norm(
    x: torch.Tensor,
    y: torch.Tensor,
    gate: torch.Tensor | None,
    scale: torch.Tensor,
    shift: torch.Tensor | None,
    *,
    kind: Kind = "layer",
    eps: float = 1e-6,
    plus_one: bool = True,
    first: int = 0,
    y_eps: float | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """A new sum and its norm: `row_twins.add_norm`. `x` does not change."""
    made: tuple[torch.Tensor, torch.Tensor] = _code(x).add_norm(
        x, y, gate, scale, shift, kind=kind, eps=eps, plus_one=plus_one, first=first, y_eps=y_eps
    )
    return made


def add(
    x: torch.Tensor,
    y: torch.Tensor,
    gate: torch.Tensor | None,
    *,
    first: int = 0,
    y_eps: float | None = None,
    in_place: bool = False,
) -> torch.Tensor:
    """A sum: `row_twins.add`. With `in_place` it replaces `x`, which the caller made and which is contiguous."""
    if on_kernels(x) or x.is_meta:
        made: torch.Tensor = _code(x).add(x, y, gate, first=first, y_eps=y_eps, in_place=in_place)
        return made
    total = row_twins.add(x, y, gate, first=first, y_eps=y_eps)
    return x.copy_(total) if in_place else total


def query_key_(
    qkv: torch.Tensor,
    query_weight: torch.Tensor,
    key_weight: torch.Tensor,
    cos: torch.Tensor | None,
    sin: torch.Tensor | None,
    *,
    eps: float,
    across: bool = False,
    first: int = 0,
    start: int = 0,
) -> None:
    """Normalised and rotated queries and keys, in place: `row_twins.query_key_`."""
    width = qkv.shape[-1]
    odd = qkv.is_cuda and not (width >= 2 and math.log2(width).is_integer())
    code = row_twins if odd else _code(qkv)
    code.query_key_(qkv, query_weight, key_weight, cos, sin, eps=eps, across=across, first=first, start=start)


def silu_product(pairs: torch.Tensor) -> torch.Tensor:
    """silu(a) · b of the halves of each row: `row_twins.silu_product`."""
    made: torch.Tensor = _code(pairs).silu_product(pairs)
    return made
