"""Triton kernels that move frames `[T, H, W, C]`: margins, and phases that are put together (`frame_operations`).

Sizes are not compiled in: a kernel is compiled once for each number of channels and dtype.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl

from ...support.kernel_launch import launch
from .frame_sums_kernels import programs_for
from .frame_values import Affine, Margin, Sums

if TYPE_CHECKING:
    from torch import Tensor

PAD_ELEMENTS, INTERLEAVE_ELEMENTS = 8192, 8192
"""Elements of a tile, tuned on an H100."""


@triton.jit(
    do_not_specialize=["count", "height", "width", "padded_height", "padded_width", "front", "above", "left", "blocks"]
)
def _pad(  # type: ignore[no-untyped-def]
    x,
    residual,
    scale,
    shift,
    out,
    count,
    height,
    width,
    padded_height,
    padded_width,
    front,
    above,
    left,
    blocks,
    C: tl.constexpr,
    CHANNELS: tl.constexpr,
    COLUMNS: tl.constexpr,
    RESIDUAL: tl.constexpr,
    AFFINE: tl.constexpr,
    SILU: tl.constexpr,
):
    program = tl.program_id(0)
    line = program // blocks
    column = (program % blocks) * COLUMNS + tl.arange(0, COLUMNS)
    inside = column < padded_width
    time = tl.minimum(tl.maximum(line // padded_height - front, 0), count - 1)
    row = tl.minimum(tl.maximum(line % padded_height - above, 0), height - 1)
    place = tl.minimum(tl.maximum(column - left, 0), width - 1)
    source = (time * height + row).to(tl.int64) * width + place
    channel = tl.arange(0, CHANNELS)
    known = channel < C
    mask = inside[:, None] & known[None, :]
    value = tl.load(x + source[:, None] * C + channel[None, :], mask=mask, other=0.0).to(tl.float32)
    if RESIDUAL:
        value += tl.load(residual + source[:, None] * C + channel[None, :], mask=mask, other=0.0).to(tl.float32)
    if AFFINE:
        value = value * tl.load(scale + channel, mask=known, other=0.0)[None, :]
        value = value + tl.load(shift + channel, mask=known, other=0.0)[None, :]
    if SILU:
        value = value * tl.sigmoid(value)
    target = line.to(tl.int64) * padded_width + column
    tl.store(out + target[:, None] * C + channel[None, :], value.to(out.dtype.element_ty), mask=mask)


def pad(x: Tensor, margin: Margin, residual: Tensor | None, affine: Affine | None, silu: bool) -> Tensor:
    """See `frame_operations.pad`."""
    count, height, width, channels = x.shape
    rows, columns = height + 2 * margin.rows, width + 2 * margin.columns
    out = x.new_empty(count + margin.frames, rows, columns, channels)
    lanes = max(triton.next_power_of_2(channels), 8)
    tile = max(1, min(PAD_ELEMENTS // lanes, triton.next_power_of_2(columns)))
    blocks = triton.cdiv(columns, tile)
    launch(
        _pad,
        (len(out) * rows * blocks,),
        x,
        x if residual is None else residual,
        x if affine is None else affine.scale,
        x if affine is None else affine.shift,
        out,
        count,
        height,
        width,
        rows,
        columns,
        margin.frames,
        margin.rows,
        margin.columns,
        blocks,
        channels,
        lanes,
        tile,
        residual is not None,
        affine is not None,
        silu,
        num_warps=4,
    )
    return out


@triton.jit(do_not_specialize=["height", "width", "rows", "columns", "blocks", "tiles", "programs"])
def _interleave(  # type: ignore[no-untyped-def]
    phases,
    bias,
    out,
    partial,
    height,
    width,
    rows,
    columns,
    blocks,
    tiles,
    programs,
    C: tl.constexpr,
    CHANNELS: tl.constexpr,
    COLUMNS: tl.constexpr,
    IN_TIME: tl.constexpr,
):
    program = tl.program_id(0)
    channel = tl.arange(0, CHANNELS)
    known = channel < C
    NUMBER: tl.constexpr = 8 if IN_TIME else 4
    first = tl.zeros([COLUMNS, CHANNELS], tl.float32)
    second = tl.zeros([COLUMNS, CHANNELS], tl.float32)
    summand = tl.load(bias + channel, mask=known, other=0.0)[None, :]
    for tile in range(program, tiles, programs):
        line = tile // blocks
        column = (tile % blocks) * COLUMNS + tl.arange(0, COLUMNS)
        row = line % height
        time = line // height
        mask = (column < width)[:, None] & known[None, :]
        phase = (row % 2) * 2 + column % 2
        if IN_TIME:
            phase += (time % 2) * 4
            time = (time + 1) // 2
        source = (time * rows + (row + 1) // 2).to(tl.int64) * columns + (column + 1) // 2
        place = source[:, None] * (NUMBER * C) + phase[:, None] * C + channel[None, :]
        value = tl.load(phases + place, mask=mask, other=0.0).to(tl.float32) + summand
        stored = value.to(out.dtype.element_ty)
        target = line.to(tl.int64) * width + column
        tl.store(out + target[:, None] * C + channel[None, :], stored, mask=mask)
        value = tl.where(mask, stored.to(tl.float32), 0.0)
        first += value
        second += value * value
    own = partial + program.to(tl.int64) * (2 * C) + channel
    tl.store(own, tl.sum(first, 0), mask=known)
    tl.store(own + C, tl.sum(second, 0), mask=known)


def interleave(phases: Tensor, bias: Tensor, in_time: bool) -> tuple[Tensor, Sums]:
    """See `frame_operations.interleave`."""
    count, rows, columns, together = phases.shape
    channels = together // (8 if in_time else 4)
    height, width = 2 * (rows - 1), 2 * (columns - 1)
    out = phases.new_empty(2 * count - 1 if in_time else count, height, width, channels)
    lanes = max(triton.next_power_of_2(channels), 8)
    tile = max(1, min(INTERLEAVE_ELEMENTS // lanes, triton.next_power_of_2(width)))
    blocks = triton.cdiv(width, tile)
    tiles = len(out) * height * blocks
    programs = programs_for(phases, tiles)
    partial = torch.empty(programs, 2, channels, device=phases.device, dtype=torch.float32)
    sizes = (height, width, rows, columns, blocks, tiles, programs)
    launch(_interleave, (programs,), phases, bias, out, partial, *sizes, channels, lanes, tile, in_time, num_warps=8)
    return out, Sums(partial, len(out) * height * width)
