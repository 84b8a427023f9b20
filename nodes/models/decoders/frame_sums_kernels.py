"""Triton kernels of sums over frames `[T, H, W, C]`, and of the norms over groups made from them (`frame_operations`).

Sizes are not compiled in: a kernel is compiled once for each number of channels and dtype.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import triton
import triton.language as tl

from ...support.kernel_launch import launch
from .frame_values import Affine, Sums

if TYPE_CHECKING:
    from torch import Tensor, nn

PROGRAMS = 16
"""Programs for each multiprocessor, of kernels that walk over positions."""

SUM_ELEMENTS, ADD_ELEMENTS = 2048, 8192
"""Elements of a tile, tuned on an H100."""


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
    programs = programs_for(x, triton.cdiv(positions, rows))
    partial = torch.empty(programs, 2, channels, device=x.device, dtype=torch.float32)
    launch(
        _sums,
        (programs,),
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
    launch(
        _group_norm,
        (norm.num_groups,),
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


def programs_for(x: Tensor, tiles: int) -> int:
    """The number of programs that walk over tiles."""
    units: Any = torch.cuda.get_device_properties(x.device).multi_processor_count if x.is_cuda else 4
    return int(max(1, min(units * PROGRAMS, tiles)))
