"""The Triton kernel of the last convolution of a decoder: it sums the products of the taps (`last_convolution`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import triton
import triton.language as tl

from ...support.kernel_launch import launch

if TYPE_CHECKING:
    from torch import Tensor

TAP_COLUMNS = 512
"""Columns of a tile, tuned on an H100."""


@triton.jit(do_not_specialize=["height", "width", "rows", "columns", "blocks", "length", "apart"])
def _sum_taps(  # type: ignore[no-untyped-def]
    products,
    bias,
    out,
    height,
    width,
    rows,
    columns,
    blocks,
    length,
    apart,
    CHANNELS: tl.constexpr,
    COLUMNS: tl.constexpr,
    CLAMP: tl.constexpr,
):
    program = tl.program_id(0)
    line = program // blocks
    column = (program % blocks) * COLUMNS + tl.arange(0, COLUMNS)
    mask = column < width
    base = (line // height * rows + line % height) * columns
    channel = tl.program_id(1)
    total = tl.zeros([COLUMNS], tl.float32) + tl.load(bias + channel)
    for tap in tl.static_range(27):
        offset = base + ((tap // 9) * rows + (tap // 3) % 3) * columns + tap % 3
        row = (tap * CHANNELS + channel) * length.to(tl.int64)
        total += tl.load(products + row + offset + column, mask=mask, other=0.0).to(tl.float32)
    if CLAMP:  # a value that is not a number stays
        total = tl.where(total > 1.0, 1.0, tl.where(total < -1.0, -1.0, total))
    target = channel * apart.to(tl.int64) + line.to(tl.int64) * width + column
    tl.store(out + target, total.to(out.dtype.element_ty), mask=mask)


def sum_taps(products: Tensor, bias: Tensor, padded: tuple[int, int, int], out: Tensor, clamp: bool) -> None:
    """See `frame_operations.sum_taps`."""
    channels, count, height, width = out.shape
    _, rows, columns = padded
    blocks = triton.cdiv(width, TAP_COLUMNS)
    sizes = (height, width, rows, columns, blocks, products.stride(0), out.stride(0))
    launch(
        _sum_taps,
        (count * height * blocks, channels),
        products,
        bias,
        out,
        *sizes,
        channels,
        TAP_COLUMNS,
        clamp,
        num_warps=4,
    )
