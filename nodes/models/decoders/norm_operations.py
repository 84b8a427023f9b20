"""Operations between the convolutions of a decoder with norms over channels, in the layout `[T, H, W, C]`.

Each has a Triton kernel (`norm_kernels`) and a twin in plain torch, as in `frame_operations`. The norm divides a
position's channels by their root mean square, and multiplies by a weight for each channel.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch.nn.functional as F

from .dense_convolution import wide
from .frame_operations import on_kernels
from .frame_values import SMALLEST, Doubled

if TYPE_CHECKING:
    from torch import Tensor


def norm_silu(
    x: Tensor,
    weight: Tensor,
    out: Tensor,
    *,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    keep: bool = False,
    silu: bool = True,
) -> None:
    """Add a bias and a residual to frames, normalise the sum and apply SiLU.

    Args:
        x: Frames, [T, H, W, C], dense.
        weight: [C].
        out: Receives the result, dense: [T, H, W, C], or [T, H + 2, W + 2, C] with zeros around it.
        bias: [C].
        residual: Frames of the same shape.
        keep: Store the sum in `x`.
        silu: Apply SiLU.
    """
    if on_kernels(x):
        from . import norm_kernels

        norm_kernels.norm_silu(x, weight, out, bias, residual, keep, silu)
        return
    if x.is_meta:  # a plan counts memory, and the kernel takes none
        return
    value = _sum(x, bias, residual)
    if keep:
        value = wide(x.copy_(value))
    value = _normed(value, weight)
    value = F.silu(value) if silu else value
    _put(value, out)


def add(x: Tensor, bias: Tensor, residual: Tensor | None, out: Tensor) -> None:
    """Write the sum of frames, a bias and a residual to `out`, all [T, H, W, C] and dense."""
    if on_kernels(x):
        from . import norm_kernels

        norm_kernels.add(x, bias, residual, out)
        return
    if x.is_meta:
        return
    out.copy_(_sum(x, bias, residual))


def interleave_norm(phases: Tensor, bias: Tensor, weight: Tensor, out: Tensor, doubled: Doubled | None) -> Tensor:
    """Put the four phases of a convolution after nearest upsampling in their places, and normalise the result.

    Args:
        phases: [T, H + 1, W + 1, 4 C]; the phase of columns changes fastest.
        bias: [C], added to each phase.
        weight: The norm's, [C].
        out: Receives the normalised frames with SiLU, dense: [T, 2 H, 2 W, C], or [T, 2 H + 2, 2 W + 2, C] with zeros
            around.
        doubled: Frames, [T', H, W, C'], that are added before the norm; see `Doubled`. Channel c of the result at phase
            p takes channel (c n + p) C' / (C n) of them, where n is the number of phases with those of time.

    Returns:
        The frames before the norm, [T, 2 H, 2 W, C].
    """
    if on_kernels(phases):
        from . import norm_kernels

        return norm_kernels.interleave_norm(phases, bias, weight, out, doubled)
    count, rows, columns, together = phases.shape
    size = count, 2 * (rows - 1), 2 * (columns - 1), together // 4
    if phases.is_meta:
        return phases.new_empty(size)
    split = phases.view(count, rows, columns, 2, 2, -1)
    made = wide(phases.new_empty(size))
    for row in (0, 1):
        for column in (0, 1):
            there = split[:, row : rows - 1 + row, column : columns - 1 + column, row, column]
            made[:, row::2, column::2] = wide(there) + bias
    if doubled is not None:
        made = made + wide(_spread(doubled, made.shape[-1]))
    kept = made.to(phases.dtype)
    _put(F.silu(_normed(wide(kept), weight)), out)
    return kept


def interleave_time(halves: Tensor, bias: Tensor, out: Tensor) -> None:
    """Write the two halves of a convolution's channels as consecutive frames.

    Args:
        halves: [T, H, W, 2 C].
        bias: [2 C].
        out: [2 T, H, W, C], dense.
    """
    if on_kernels(halves):
        from . import norm_kernels

        norm_kernels.interleave_time(halves, bias, out)
        return
    if halves.is_meta:
        return
    count, height, width, channels = halves.shape
    value = (wide(halves) + bias).view(count, height, width, 2, channels // 2)
    out.copy_(value.permute(0, 3, 1, 2, 4).reshape(out.shape))


def _sum(x: Tensor, bias: Tensor | None, residual: Tensor | None) -> Tensor:
    value = wide(x)
    if bias is not None:
        value = value + bias
    return value if residual is None else value + wide(residual)


def _put(value: Tensor, out: Tensor) -> None:
    """Write frames to the middle of larger ones, and zeros around."""
    halo = (out.shape[1] - value.shape[1]) // 2
    out.copy_(F.pad(value, (0, 0, halo, halo, halo, halo)))


def _normed(value: Tensor, weight: Tensor) -> Tensor:
    length = value.norm(dim=-1, keepdim=True).clamp_min(SMALLEST)
    return value / length * (value.shape[-1] ** 0.5) * weight


def _spread(doubled: Doubled, channels: int) -> Tensor:
    frames, times, skipped = doubled
    count, height, width, own = frames.shape
    phases = 4 * times
    repeated = frames.repeat_interleave(channels * phases // own, dim=-1)
    split = repeated.view(count, height, width, channels, times, 2, 2).permute(0, 4, 1, 5, 2, 6, 3)
    return split.reshape(count * times, 2 * height, 2 * width, channels)[skipped:]
