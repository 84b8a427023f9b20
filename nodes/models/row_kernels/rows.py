"""The row kernels for any device. `row_twins` documents shapes and formulas."""

from __future__ import annotations

import importlib.util
import math
from functools import cache
from typing import Any

import torch

from ...support import kernel_launch
from . import quantized_rows, row_shapes, row_twins
from .quantized_rows import Format, QuantizedRows
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
    return (tensor.is_cuda or kernel_launch.gathers(tensor)) and has_triton()


def _code(tensor: torch.Tensor, format: Format | None = None) -> Any:
    """The module that computes with this tensor, and makes a result in this format."""
    if _kernels_for(tensor, format):
        return _triton()
    return row_shapes if tensor.is_meta and format is None else row_twins


def _kernels_for(x: torch.Tensor, format: Format | None) -> bool:
    """Whether a norm with a result of this format goes to Triton."""
    return on_kernels(x) and (format is None or (format == "fp8" and writes_e4m3(x.device)))


@cache
def _quantized_triton() -> Any:
    from . import quantized_triton

    return quantized_triton


def writes_e4m3(device: torch.device) -> bool:
    """Whether the kernels write e4m3 on a device: Ada, Hopper, and newer."""
    found = kernel_launch.gathering_for() if device.type == "meta" else device
    return found is not None and found.type == "cuda" and has_triton() and _capability(found) >= (8, 9)


@cache
def _capability(device: torch.device) -> tuple[int, int]:
    return torch.cuda.get_device_capability(device)


def norm(
    x: torch.Tensor,
    scale: torch.Tensor,
    shift: torch.Tensor | None,
    *,
    kind: Kind = "layer",
    eps: float = 1e-6,
    plus_one: bool = True,
    first: int = 0,
    format: Format | None = None,
) -> Any:
    """Normalised and modulated rows: `row_twins.norm`. A tensor, or `QuantizedRows` with a `format`."""
    options: dict[str, Any] = {"kind": kind, "eps": eps, "plus_one": plus_one, "first": first, "format": format}
    return _code(x, format).norm(x, scale, shift, **options)


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
    format: Format | None = None,
) -> tuple[torch.Tensor, Any]:
    """A new sum and its norm: `row_twins.add_norm`. `x` does not change; the norm is as in `norm`."""
    made: tuple[torch.Tensor, Any] = _code(x, format).add_norm(
        x, y, gate, scale, shift, kind=kind, eps=eps, plus_one=plus_one, first=first, y_eps=y_eps, format=format
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
    odd = on_kernels(qkv) and not (width >= 2 and math.log2(width).is_integer())
    code = row_twins if odd else _code(qkv)
    code.query_key_(qkv, query_weight, key_weight, cos, sin, eps=eps, across=across, first=first, start=start)


def silu_product(pairs: torch.Tensor) -> torch.Tensor:
    """silu(a) · b of the halves of each row: `row_twins.silu_product`."""
    made: torch.Tensor = _code(pairs).silu_product(pairs)
    return made


def quantized(x: torch.Tensor, format: Format) -> QuantizedRows:
    """Rows [..., D] in 8 bits: `quantized_rows.quantized`."""
    return quantized_side_by_side(x, None, format, gelu=False)


def quantized_side_by_side(
    a: torch.Tensor | None, b: torch.Tensor | None, format: Format, *, gelu: bool
) -> QuantizedRows:
    """Rows of `a` and `b` side by side in 8 bits: `quantized_rows.quantized_side_by_side`."""
    given = a if a is not None else b
    assert given is not None
    if format == "fp8" and writes_e4m3(given.device) and not torch.compiler.is_compiling():
        made: QuantizedRows = _quantized_triton().quantized_side_by_side(a, b, gelu=gelu)
        return made
    return quantized_rows.quantized_side_by_side(a, b, format, gelu=gelu)
