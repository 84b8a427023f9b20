"""Operations between the convolutions of a decoder with group norms, over frames in one dense layout `[T, H, W, C]`.

Each has a Triton kernel (`frame_kernels`, `frame_sums_kernels`) and a twin in plain torch, which is used where the
kernel is not: on a CPU and for float64. Both compute in float32 at least. Sums of a channel and of its squares stand
for the norm's statistics.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from ...support.kernel_launch import gathers
from . import frame_shapes
from .dense_convolution import wide
from .frame_values import Affine, Margin, Sums
from .strip_rows import fill_margins, of_all

if TYPE_CHECKING:
    from torch import Tensor, nn


def on_kernels(x: Tensor) -> bool:
    """Whether the Triton kernels take this tensor."""
    return (x.is_cuda or gathers(x)) and x.dtype in (torch.bfloat16, torch.float16, torch.float32)


def pad(
    x: Tensor, margin: Margin, *, residual: Tensor | None = None, affine: Affine | None = None, silu: bool = False
) -> Tensor:
    """Copy frames into a larger buffer, and repeat the border in its margin.

    Args:
        x: Frames, [T, H, W, C], dense.
        margin: The margin.
        residual: Frames of the same shape that are added first.
        affine: Applied to the sum.
        silu: Apply SiLU last.

    Returns:
        [T + frames, H + 2 rows, W + 2 columns, C], in the dtype of `x`. In a strip, the rows of the margin are those of
        the neighbours.
    """
    padded = _padded(x, margin, residual, affine, silu)
    return fill_margins(padded) if margin.rows else padded


def _padded(x: Tensor, margin: Margin, residual: Tensor | None, affine: Affine | None, silu: bool) -> Tensor:
    if on_kernels(x):
        from . import frame_kernels

        return frame_kernels.pad(x, margin, residual, affine, silu)
    if x.is_meta:
        return frame_shapes.pad(x, margin)
    value = wide(x) if residual is None else wide(x) + wide(residual)
    if affine is not None:
        value = value * affine.scale + affine.shift
    if silu:
        value = F.silu(value)
    channels = value.to(x.dtype).permute(3, 0, 1, 2)
    around = (margin.columns, margin.columns, margin.rows, margin.rows, margin.frames, 0)
    return F.pad(channels, around, mode="replicate").permute(1, 2, 3, 0).contiguous()


def sums(x: Tensor) -> Sums:
    """Sum each channel of frames, [T, H, W, C], dense."""
    if on_kernels(x):
        from . import frame_sums_kernels

        return frame_sums_kernels.sums(x)
    return frame_shapes.sums(x) if x.is_meta else _sums(x)


def add_with_sums(x: Tensor, bias: Tensor, residual: Tensor | None = None) -> Sums:
    """Add a bias, [C], and a residual to frames in place, and sum each channel of the result."""
    if on_kernels(x):
        from . import frame_sums_kernels

        return frame_sums_kernels.add_with_sums(x, bias, residual)
    if x.is_meta:
        return frame_shapes.sums(x)
    value = wide(x) + bias
    if residual is not None:
        value = value + wide(residual)
    x.copy_(value)
    return _sums(x)


def group_norm(found: Sums, norm: nn.GroupNorm, bias: Tensor | None = None) -> Affine:
    """The factor and summand by which a group norm acts on frames.

    Args:
        found: Sums of the frames.
        norm: The group norm.
        bias: A bias, [C], that belongs to the frames and was not added to them. The result adds it too.
    """
    found = of_all(found)
    if on_kernels(found.partial):
        from . import frame_sums_kernels

        return frame_sums_kernels.group_norm(found, norm, bias)
    if found.partial.is_meta:
        return frame_shapes.group_norm(found)
    first, second = found.partial.double().sum(0)
    count = found.positions
    if bias is not None:
        own = bias.double()
        second = second + 2 * own * first + count * own * own
        first = first + count * own
    groups = norm.num_groups
    size = count * (norm.num_channels // groups)
    mean = first.view(groups, -1).sum(1) / size
    variance = second.view(groups, -1).sum(1) / size - mean * mean
    per_channel = norm.num_channels // groups
    scale = norm.weight.double() * (variance + norm.eps).rsqrt().repeat_interleave(per_channel)
    shift = norm.bias.double() - mean.repeat_interleave(per_channel) * scale
    if bias is not None:
        shift = shift + bias.double() * scale
    kept = found.partial.dtype
    return Affine(scale.to(kept), shift.to(kept))


def interleave(phases: Tensor, bias: Tensor, in_time: bool) -> tuple[Tensor, Sums]:
    """Put the phases of a convolution after nearest upsampling in their places, add its bias, and sum each channel.

    Args:
        phases: [T, H + 1, W + 1, 4 C], or 8 C with time. The phase of columns changes fastest.
        bias: [C].
        in_time: Frames are doubled too, but for the first.

    Returns:
        Frames, [T, 2 H, 2 W, C], or [2 T - 1, 2 H, 2 W, C], and their sums.
    """
    if on_kernels(phases):
        from . import frame_kernels

        return frame_kernels.interleave(phases, bias, in_time)
    if phases.is_meta:
        return frame_shapes.interleave(phases, in_time)
    count, rows, columns, _ = phases.shape
    times = 2 if in_time else 1
    split = phases.view(count, rows, columns, times, 2, 2, -1)
    made = phases.new_empty(2 * count - 1 if in_time else count, 2 * (rows - 1), 2 * (columns - 1), split.shape[-1])
    # An even position 2 i takes phase 0 at i; an odd one 2 i + 1 takes phase 1 at i + 1.
    for row in (0, 1):
        for column in (0, 1):
            there = split[:, row : rows - 1 + row, column : columns - 1 + column]
            made[::times, row::2, column::2] = there[:, :, :, 0, row, column]
            if in_time:
                made[1::2, row::2, column::2] = there[1:, :, :, 1, row, column]
    made.copy_(wide(made) + bias)
    return made, _sums(made)


def sum_taps(products: Tensor, bias: Tensor, padded: tuple[int, int, int], out: Tensor, *, clamp: bool = False) -> None:
    """Sum the 27 products of a convolution of 3 x 3 x 3 taps with few output channels.

    Args:
        products: [taps x channels or more, positions of the padded frames or more]; the channel changes fastest.
        bias: [channels].
        padded: Frames, rows and columns of the padded input.
        out: [channels, T, H, W], each frame dense; it receives the sum.
        clamp: Limit the sum to [-1, 1].
    """
    if on_kernels(products):
        from . import tap_kernels

        tap_kernels.sum_taps(products, bias, padded, out, clamp)
        return
    if products.is_meta:
        return
    channels, count, height, width = out.shape
    frames, rows, columns = padded
    found = wide(products)[: 27 * channels, : frames * rows * columns].view(27, channels, frames, rows, columns)
    total = bias.view(-1, 1, 1, 1).to(found.dtype)
    for tap in range(27):
        time, row, column = tap // 9, tap // 3 % 3, tap % 3
        total = total + found[tap, :, time : time + count, row : row + height, column : column + width]
    out.copy_(total.clamp(-1, 1) if clamp else total)


def _sums(x: Tensor) -> Sums:
    flat = wide(x).reshape(-1, x.shape[-1])
    return Sums(torch.stack([flat.sum(0), (flat * flat).sum(0)])[None], len(flat))
