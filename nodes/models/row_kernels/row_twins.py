"""The row kernels in plain torch: the meaning of each kernel, and the code that runs on a CPU.

A sequence is [B, S, D]. A vector that acts on its rows (gate, scale, shift) is [B or 1, G, D] with one or two groups G:
with two, the rows before `first` take group 0, and the rows from `first` on take group 1. Everything is computed in
float32 and rounded once to the dtype of the sequence.
"""

from __future__ import annotations

from typing import Literal

import torch

from . import quantized_rows
from .quantized_rows import Format, QuantizedRows

Kind = Literal["layer", "rms"]
"""LayerNorm without weights, or root-mean-square norm without weights."""


def spread(vector: torch.Tensor, rows: int, first: int) -> torch.Tensor:
    """A vector [B or 1, G, D] for each row, in float32: [B or 1, S or 1, D]."""
    if vector.shape[1] == 1:
        return vector.float()
    groups = vector[:, :1].expand(-1, first, -1), vector[:, 1:].expand(-1, rows - first, -1)
    return torch.cat(groups, dim=1).float()


def normalised(x: torch.Tensor, kind: Kind, eps: float) -> torch.Tensor:
    """Float32 rows [..., D] with variance 1 (and mean 0 for `layer`)."""
    if kind == "layer":
        x = x - x.mean(-1, keepdim=True)
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)


def norm(
    x: torch.Tensor,
    scale: torch.Tensor,
    shift: torch.Tensor | None,
    *,
    kind: Kind,
    eps: float,
    plus_one: bool,
    first: int = 0,
    format: Format | None = None,
) -> torch.Tensor | QuantizedRows:
    """Normalise rows, multiply them by `scale` (or 1 + `scale`), and add `shift`.

    Args:
        x: [B, S, D].
        scale: [B or 1, G, D].
        shift: [B or 1, G, D]; None adds nothing.
        kind: The norm.
        eps: Added to the variance.
        plus_one: Whether the factor is 1 + `scale`.
        first: Number of rows of each sequence in group 0.
        format: A format of 8 bits for the result; None for the dtype of `x`.

    Returns:
        [B, S, D].
    """
    made = normalised(x.float(), kind, eps) * (spread(scale, x.shape[1], first) + float(plus_one))
    if shift is not None:
        made = made + spread(shift, x.shape[1], first)
    return made.to(x.dtype) if format is None else quantized_rows.quantized(made, format, x.dtype)


def add(
    x: torch.Tensor,
    y: torch.Tensor,
    gate: torch.Tensor | None,
    *,
    first: int = 0,
    y_eps: float | None = None,
) -> torch.Tensor:
    """Add `gate` · `y` to a sequence.

    Args:
        x: [B, S, D].
        y: [B, S, D].
        gate: [B or 1, G, D]; None stands for 1.
        first: Number of rows of each sequence in group 0.
        y_eps: If given, the rows of `y` go through the root-mean-square norm with this `eps` first.

    Returns:
        [B, S, D] in the dtype of `x`.
    """
    added = y.float() if y_eps is None else normalised(y.float(), "rms", y_eps)
    if gate is not None:
        added = added * spread(gate, x.shape[1], first)
    return (x.float() + added).to(x.dtype)


def add_norm(
    x: torch.Tensor,
    y: torch.Tensor,
    gate: torch.Tensor | None,
    scale: torch.Tensor,
    shift: torch.Tensor | None,
    *,
    kind: Kind,
    eps: float,
    plus_one: bool,
    first: int = 0,
    y_eps: float | None = None,
    format: Format | None = None,
) -> tuple[torch.Tensor, torch.Tensor | QuantizedRows]:
    """`add`, then `norm` of the sum: both results. The sum is rounded before it is normalised."""
    total = add(x, y, gate, first=first, y_eps=y_eps)
    return total, norm(total, scale, shift, kind=kind, eps=eps, plus_one=plus_one, first=first, format=format)


def query_key_(
    qkv: torch.Tensor,
    query_weight: torch.Tensor,
    key_weight: torch.Tensor,
    cos: torch.Tensor | None,
    sin: torch.Tensor | None,
    *,
    eps: float,
    across: bool,
    first: int = 0,
    start: int = 0,
) -> None:
    """Normalise queries and keys, and rotate them to their positions, in place.

    Elements 2j and 2j + 1 of a head are a pair, which turns by the angle j of its row.

    Args:
        qkv: [B, S, 3, H, D], contiguous: queries, keys and values of each row.
        query_weight: Weights of the root-mean-square norm: [G, D], or [G, H·D] with `across`.
        key_weight: The same for the keys.
        cos: Cosines [B or 1, P, D / 2] of the rows from `start` on, float32; other rows are not rotated. None rotates
            nothing.
        sin: Sines, as the cosines.
        eps: Added to the mean square.
        across: Whether all heads of a row are normalised together.
        first: Number of rows of each sequence in group 0 of the weights.
        start: First row that is rotated.
    """
    rows, heads, width = qkv.shape[1], qkv.shape[3], qkv.shape[4]
    for part, weight in ((0, query_weight), (1, key_weight)):
        given = qkv[:, :, part].float()  # [B, S, H, D]
        made = normalised(given.flatten(2), "rms", eps).view_as(given) if across else normalised(given, "rms", eps)
        factors = spread(weight[None], rows, first)  # [1, S or 1, D or H·D]
        made = made * (factors.unflatten(-1, (heads, width)) if across else factors.unsqueeze(2))
        if cos is not None and sin is not None:
            stop = start + cos.shape[1]
            a, b = made[:, start:stop].unflatten(-1, (-1, 2)).unbind(-1)
            c, s = cos.unsqueeze(2), sin.unsqueeze(2)
            made[:, start:stop] = torch.stack((a * c - b * s, a * s + b * c), dim=-1).flatten(-2)
        qkv[:, :, part] = made.to(qkv.dtype)


def silu_product(pairs: torch.Tensor) -> torch.Tensor:
    """silu(a) · b for the halves a and b of each row: [..., 2 F] becomes [..., F]."""
    a, b = pairs.float().chunk(2, dim=-1)
    return (torch.nn.functional.silu(a) * b).to(pairs.dtype)
