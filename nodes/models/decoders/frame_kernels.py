"""Triton kernels of the operations in `frame_operations`, over frames in the layout `[T, H, W, C]`.

Sizes are not compiled in: a kernel is compiled once for each number of channels and dtype.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import triton
import triton.language as tl

from .frame_values import Affine, Margin, Sums

if TYPE_CHECKING:
    from torch import Tensor, nn

PROGRAMS = 16
"""Programs for each multiprocessor, of kernels that walk over positions."""

PAD_ELEMENTS, SUM_ELEMENTS, ADD_ELEMENTS, INTERLEAVE_ELEMENTS = 8192, 2048, 8192, 8192
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
    _pad[(len(out) * rows * blocks,)](
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


@triton.jit(do_not_specialize=["positions", "programs"])
def _sums(  # type: ignore[no-untyped-def]
    x,
    residual,
    bias,
    partial,
    positions,
    programs,
    C: tl.constexpr,
    CHANNELS: tl.constexpr,
    ROWS: tl.constexpr,
    ADD: tl.constexpr,
    RESIDUAL: tl.constexpr,
):
    program = tl.program_id(0)
    channel = tl.arange(0, CHANNELS)
    known = channel < C
    first = tl.zeros([ROWS, CHANNELS], tl.float32)
    second = tl.zeros([ROWS, CHANNELS], tl.float32)
    if ADD:
        summand = tl.load(bias + channel, mask=known, other=0.0)[None, :]
    for start in range(program * ROWS, positions, programs * ROWS):
        rows = start + tl.arange(0, ROWS)
        mask = (rows < positions)[:, None] & known[None, :]
        place = rows.to(tl.int64)[:, None] * C + channel[None, :]
        value = tl.load(x + place, mask=mask, other=0.0).to(tl.float32)
        if ADD:
            value += summand
            if RESIDUAL:
                value += tl.load(residual + place, mask=mask, other=0.0).to(tl.float32)
            stored = value.to(x.dtype.element_ty)
            tl.store(x + place, stored, mask=mask)
            value = tl.where(mask, stored.to(tl.float32), 0.0)
        first += value
        second += value * value
    own = partial + program.to(tl.int64) * (2 * C) + channel
    tl.store(own, tl.sum(first, 0), mask=known)
    tl.store(own + C, tl.sum(second, 0), mask=known)


def sums(x: Tensor) -> Sums:
    """See `frame_operations.sums`."""
    return _summed(x, None, None, SUM_ELEMENTS)


def add_with_sums(x: Tensor, bias: Tensor, residual: Tensor | None) -> Sums:
    """See `frame_operations.add_with_sums`."""
    return _summed(x, bias, residual, ADD_ELEMENTS)


def _summed(x: Tensor, bias: Tensor | None, residual: Tensor | None, elements: int) -> Sums:
    channels = x.shape[-1]
    positions = x.numel() // channels
    lanes = max(triton.next_power_of_2(channels), 8)
    rows = max(elements // lanes, 1)
    programs = _programs(x, triton.cdiv(positions, rows))
    partial = torch.empty(programs, 2, channels, device=x.device, dtype=torch.float32)
    _sums[(programs,)](
        x,
        x if residual is None else residual,
        x if bias is None else bias,
        partial,
        positions,
        programs,
        channels,
        lanes,
        rows,
        bias is not None,
        residual is not None,
        num_warps=4,
    )
    return Sums(partial, positions)


@triton.jit(do_not_specialize=["programs", "positions"])
def _group_norm(  # type: ignore[no-untyped-def]
    partial,
    weight,
    shift_weight,
    bias,
    scale,
    shift,
    programs,
    positions,
    eps,
    C: tl.constexpr,
    PER_GROUP: tl.constexpr,
    LANES: tl.constexpr,
    PARTS: tl.constexpr,
    BIAS: tl.constexpr,
):
    lane = tl.arange(0, LANES)
    known = lane < PER_GROUP
    channel = tl.program_id(0) * PER_GROUP + lane
    first = tl.zeros([PARTS, LANES], tl.float32)
    second = tl.zeros([PARTS, LANES], tl.float32)
    for start in range(0, programs, PARTS):
        part = start + tl.arange(0, PARTS)
        mask = (part < programs)[:, None] & known[None, :]
        place = part[:, None] * (2 * C) + channel[None, :]
        first += tl.load(partial + place, mask=mask, other=0.0)
        second += tl.load(partial + place + C, mask=mask, other=0.0)
    total = tl.sum(first, 0).to(tl.float64)
    squares = tl.sum(second, 0).to(tl.float64)
    if BIAS:
        own = tl.load(bias + channel, mask=known, other=0.0).to(tl.float64)
        squares = squares + 2 * own * total + positions * own * own
        total = total + positions * own
    size = positions * PER_GROUP
    mean = tl.sum(total, 0) / size
    variance = tl.sum(squares, 0) / size - mean * mean
    factor = tl.load(weight + channel, mask=known, other=0.0).to(tl.float32)
    factor = factor / tl.sqrt((variance + eps).to(tl.float32))
    summand = tl.load(shift_weight + channel, mask=known, other=0.0).to(tl.float32) - mean.to(tl.float32) * factor
    if BIAS:
        summand += own.to(tl.float32) * factor
    tl.store(scale + channel, factor, mask=known)
    tl.store(shift + channel, summand, mask=known)


def group_norm(found: Sums, norm: nn.GroupNorm, bias: Tensor | None) -> Affine:
    """See `frame_operations.group_norm`."""
    programs, _, channels = found.partial.shape
    per_group = norm.num_channels // norm.num_groups
    scale, shift = torch.empty(2, channels, device=found.partial.device, dtype=torch.float32)
    _group_norm[(norm.num_groups,)](
        found.partial,
        norm.weight,
        norm.bias,
        found.partial if bias is None else bias,
        scale,
        shift,
        programs,
        found.positions,
        norm.eps,
        channels,
        per_group,
        triton.next_power_of_2(per_group),
        256,
        bias is not None,
        num_warps=4,
    )
    return Affine(scale, shift)


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
    programs = _programs(phases, tiles)
    partial = torch.empty(programs, 2, channels, device=phases.device, dtype=torch.float32)
    sizes = (height, width, rows, columns, blocks, tiles, programs)
    _interleave[(programs,)](phases, bias, out, partial, *sizes, channels, lanes, tile, in_time, num_warps=8)
    return out, Sums(partial, len(out) * height * width)


def _programs(x: Tensor, tiles: int) -> int:
    """The number of programs that walk over tiles."""
    units: Any = torch.cuda.get_device_properties(x.device).multi_processor_count if x.is_cuda else 4
    return int(max(1, min(units * PROGRAMS, tiles)))
