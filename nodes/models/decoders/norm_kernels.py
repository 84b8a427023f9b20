"""Triton kernels of the operations in `norm_operations`, over frames in the layout `[T, H, W, C]`.

Sizes are not compiled in: a kernel is compiled once for each number of channels and dtype.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import triton
import triton.language as tl

from ...support.kernel_launch import launch
from .frame_values import SMALLEST, Doubled

if TYPE_CHECKING:
    from torch import Tensor

NORM_ELEMENTS, ADD_ELEMENTS = 2048, 4096
"""Elements of a tile, tuned on an H100: of one input, and of two."""


@triton.jit
def _normed(value, weight, known, channel, root, LEAST: tl.constexpr, SILU: tl.constexpr):  # type: ignore[no-untyped-def]
    length = tl.maximum(tl.sqrt(tl.sum(value * value, 1)), LEAST)
    factor = tl.load(weight + channel, mask=known, other=0.0).to(tl.float32) * root
    value = value * (1.0 / length)[:, None] * factor[None, :]
    if SILU:
        value = value * tl.sigmoid(value)
    return value


@triton.jit(do_not_specialize=["height", "width", "halo", "blocks"])
def _norm_silu(  # type: ignore[no-untyped-def]
    x,
    residual,
    bias,
    weight,
    out,
    height,
    width,
    halo,
    blocks,
    root,
    C: tl.constexpr,
    CHANNELS: tl.constexpr,
    COLUMNS: tl.constexpr,
    BIAS: tl.constexpr,
    RESIDUAL: tl.constexpr,
    KEEP: tl.constexpr,
    SILU: tl.constexpr,
    LEAST: tl.constexpr,
):
    program = tl.program_id(0)
    line = program // blocks
    place = (program % blocks) * COLUMNS + tl.arange(0, COLUMNS)
    rows = height + 2 * halo
    columns = width + 2 * halo
    row = line % rows - halo
    column = place - halo
    channel = tl.arange(0, CHANNELS)
    known = channel < C
    limit = tl.where((row >= 0) & (row < height), width, 0)
    inside = (column >= 0) & (column < limit)
    mask = inside[:, None] & known[None, :]
    source = ((line // rows * height + row).to(tl.int64) * width + column)[:, None] * C + channel[None, :]
    value = tl.load(x + source, mask=mask, other=0.0).to(tl.float32)
    if BIAS:
        value += tl.load(bias + channel, mask=known, other=0.0).to(tl.float32)[None, :]
    if RESIDUAL:
        value += tl.load(residual + source, mask=mask, other=0.0).to(tl.float32)
    if KEEP:
        stored = value.to(x.dtype.element_ty)
        tl.store(x + source, stored, mask=mask)
        value = stored.to(tl.float32)
    value = _normed(tl.where(mask, value, 0.0), weight, known, channel, root, LEAST, SILU)
    target = (line.to(tl.int64) * columns + place)[:, None] * C + channel[None, :]
    tl.store(out + target, value.to(out.dtype.element_ty), mask=(place < columns)[:, None] & known[None, :])


def norm_silu(
    x: Tensor, weight: Tensor, out: Tensor, bias: Tensor | None, residual: Tensor | None, keep: bool, silu: bool
) -> None:
    """See `norm_operations.norm_silu`."""
    count, height, width, channels = x.shape
    rows, columns = out.shape[1:3]
    lanes, tile = _tile(channels, columns, NORM_ELEMENTS if residual is None else ADD_ELEMENTS)
    blocks = triton.cdiv(columns, tile)
    launch(
        _norm_silu,
        (count * rows * blocks,),
        x,
        x if residual is None else residual,
        weight if bias is None else bias,
        weight,
        out,
        height,
        width,
        (rows - height) // 2,
        blocks,
        channels**0.5,
        channels,
        lanes,
        tile,
        bias is not None,
        residual is not None,
        keep,
        silu,
        SMALLEST,
        num_warps=4,
    )


@triton.jit(do_not_specialize=["positions"])
def _add(  # type: ignore[no-untyped-def]
    x,
    residual,
    bias,
    out,
    positions,
    C: tl.constexpr,
    CHANNELS: tl.constexpr,
    ROWS: tl.constexpr,
    RESIDUAL: tl.constexpr,
):
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    channel = tl.arange(0, CHANNELS)
    known = channel < C
    mask = (rows < positions)[:, None] & known[None, :]
    place = rows.to(tl.int64)[:, None] * C + channel[None, :]
    value = tl.load(x + place, mask=mask, other=0.0).to(tl.float32)
    value += tl.load(bias + channel, mask=known, other=0.0).to(tl.float32)[None, :]
    if RESIDUAL:
        value += tl.load(residual + place, mask=mask, other=0.0).to(tl.float32)
    tl.store(out + place, value.to(out.dtype.element_ty), mask=mask)


def add(x: Tensor, bias: Tensor, residual: Tensor | None, out: Tensor) -> None:
    """See `norm_operations.add`."""
    channels = x.shape[-1]
    positions = x.numel() // channels
    lanes, rows = _tile(channels, positions, ADD_ELEMENTS)
    second = x if residual is None else residual
    grid = (triton.cdiv(positions, rows),)
    launch(_add, grid, x, second, bias, out, positions, channels, lanes, rows, residual is not None, num_warps=4)


@triton.jit(do_not_specialize=["height", "width", "halo", "blocks", "skipped"])
def _interleave_norm(  # type: ignore[no-untyped-def]
    phases,
    doubled,
    bias,
    weight,
    kept,
    out,
    height,
    width,
    halo,
    blocks,
    skipped,
    root,
    C: tl.constexpr,
    CHANNELS: tl.constexpr,
    COLUMNS: tl.constexpr,
    TIMES: tl.constexpr,
    OWN: tl.constexpr,
    LEAST: tl.constexpr,
):
    program = tl.program_id(0)
    line = program // blocks
    place = (program % blocks) * COLUMNS + tl.arange(0, COLUMNS)
    rows = height + 2 * halo
    columns = width + 2 * halo
    row = line % rows - halo
    column = place - halo
    time = line // rows
    channel = tl.arange(0, CHANNELS)
    known = channel < C
    limit = tl.where((row >= 0) & (row < height), width, 0)
    mask = ((column >= 0) & (column < limit))[:, None] & known[None, :]
    phase = (row % 2) * 2 + column % 2
    source = (time * (height // 2 + 1) + (row + 1) // 2).to(tl.int64) * (width // 2 + 1) + (column + 1) // 2
    value = tl.load(phases + source[:, None] * (4 * C) + phase[:, None] * C + channel[None, :], mask=mask, other=0.0)
    value = value.to(tl.float32) + tl.load(bias + channel, mask=known, other=0.0).to(tl.float32)[None, :]
    if OWN > 0:
        NUMBER: tl.constexpr = 4 * TIMES
        REPEATS: tl.constexpr = C * NUMBER // OWN
        late = time + skipped
        each = (late % TIMES) * 4 + phase
        taken = (channel[None, :] * NUMBER + each[:, None]) // REPEATS
        from_ = (late // TIMES * (height // 2) + row // 2).to(tl.int64) * (width // 2) + column // 2
        value += tl.load(doubled + from_[:, None] * OWN + taken, mask=mask, other=0.0).to(tl.float32)
    stored = value.to(kept.dtype.element_ty)
    own = ((time * height + row).to(tl.int64) * width + column)[:, None] * C + channel[None, :]
    tl.store(kept + own, stored, mask=mask)
    value = _normed(tl.where(mask, stored.to(tl.float32), 0.0), weight, known, channel, root, LEAST, True)
    target = (line.to(tl.int64) * columns + place)[:, None] * C + channel[None, :]
    tl.store(out + target, value.to(out.dtype.element_ty), mask=(place < columns)[:, None] & known[None, :])


def interleave_norm(phases: Tensor, bias: Tensor, weight: Tensor, out: Tensor, doubled: Doubled | None) -> Tensor:
    """See `norm_operations.interleave_norm`."""
    count, rows, columns, channels = out.shape
    height, width = (2 * (size - 1) for size in phases.shape[1:3])
    kept = phases.new_empty(count, height, width, channels)
    lanes, tile = _tile(channels, columns, ADD_ELEMENTS)
    blocks = triton.cdiv(columns, tile)
    launch(
        _interleave_norm,
        (count * rows * blocks,),
        phases,
        phases if doubled is None else doubled.frames,
        bias,
        weight,
        kept,
        out,
        height,
        width,
        (rows - height) // 2,
        blocks,
        0 if doubled is None else doubled.skipped,
        channels**0.5,
        channels,
        lanes,
        tile,
        1 if doubled is None else doubled.times,
        0 if doubled is None else doubled.frames.shape[-1],
        SMALLEST,
        num_warps=4,
    )
    return kept


@triton.jit(do_not_specialize=["size"])
def _interleave_time(halves, bias, out, size, C: tl.constexpr, CHANNELS: tl.constexpr, ROWS: tl.constexpr):  # type: ignore[no-untyped-def]
    frame = tl.program_id(1)
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    channel = tl.arange(0, CHANNELS)
    known = channel < C
    mask = (rows < size)[:, None] & known[None, :]
    half = frame % 2
    source = ((frame // 2).to(tl.int64) * size + rows)[:, None] * (2 * C) + half * C + channel[None, :]
    value = tl.load(halves + source, mask=mask, other=0.0).to(tl.float32)
    value += tl.load(bias + half * C + channel, mask=known, other=0.0).to(tl.float32)[None, :]
    target = (frame.to(tl.int64) * size + rows)[:, None] * C + channel[None, :]
    tl.store(out + target, value.to(out.dtype.element_ty), mask=mask)


def interleave_time(halves: Tensor, bias: Tensor, out: Tensor) -> None:
    """See `norm_operations.interleave_time`."""
    count, height, width, channels = out.shape
    lanes, rows = _tile(channels, height * width, ADD_ELEMENTS)
    grid = (triton.cdiv(height * width, rows), count)
    launch(_interleave_time, grid, halves, bias, out, height * width, channels, lanes, rows, num_warps=4)


def _tile(channels: int, places: int, elements: int) -> tuple[int, int]:
    """Lanes for the channels, and how many places a tile holds."""
    lanes = max(triton.next_power_of_2(channels), 8)
    return lanes, max(1, min(elements // lanes, triton.next_power_of_2(places)))
