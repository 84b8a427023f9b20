"""The Triton kernel of convolutions over frames with margins (`margin_convolution`), for GPUs that copy tiles by TMA.

The positions of padded frames stand in one line, so that a tap is a distance along it. The three taps of a row are one
tap of three times the channels: rows of the input's descriptor overlap. Of the sizes, only channels are compiled in.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import triton
import triton.language as tl
from triton.tools.tensor_descriptor import TensorDescriptor

from ...support.kernel_launch import launch

if TYPE_CHECKING:
    from torch import Tensor

    from .margin_tiles import Tile


@triton.jit(do_not_specialize=["frames", "height", "width"])
def _convolve(  # type: ignore[no-untyped-def]
    x,
    first,
    second,
    out,
    frames,
    height,
    width,
    K: tl.constexpr,
    STEPS: tl.constexpr,
    POSITIONS: tl.constexpr,
    FIRST: tl.constexpr,
    SECOND: tl.constexpr,
    DEPTH: tl.constexpr,
    STAGES: tl.constexpr,
):
    parts: tl.constexpr = (K + FIRST + SECOND - 1) // (FIRST + SECOND)
    program = tl.program_id(0)
    start = program // parts * POSITIONS
    lowest = program % parts * (FIRST + SECOND)
    rows = height + 2
    columns = width + 2
    sums = tl.zeros([POSITIONS, FIRST], tl.float32)
    if SECOND > 0:
        others = tl.zeros([POSITIONS, SECOND], tl.float32)
    for step in tl.range(0, 9 * STEPS, num_stages=STAGES):
        tap = step // STEPS
        distance = (tap // 3 * rows + tap % 3) * columns
        inputs = x.load([start + distance, step % STEPS * DEPTH])
        sums = tl.dot(inputs, first.load([lowest, step * DEPTH]).T, sums)
        if SECOND > 0:
            others = tl.dot(inputs, second.load([lowest + FIRST, step * DEPTH]).T, others)
    position = start + tl.arange(0, POSITIONS)
    column = position % columns
    row = position // columns % rows
    frame = position // (columns * rows)
    real = ((column < width) & (row < height) & (frame < frames))[:, None]
    place = ((frame * height + row) * width + column).to(tl.int64)[:, None] * K
    channel = lowest + tl.arange(0, FIRST)[None, :]
    tl.store(out + place + channel, sums.to(out.dtype.element_ty), mask=real & (channel < K))
    if SECOND > 0:
        channel = lowest + FIRST + tl.arange(0, SECOND)[None, :]
        tl.store(out + place + channel, others.to(out.dtype.element_ty), mask=real & (channel < K))


def convolve(padded: Tensor, rows: Tensor, tile: Tile) -> Tensor:
    """See `margin_convolution.convolve_margins`; positions of `padded` are fewer than 2^31."""
    count, height, width, channels = padded.shape
    frames, height, width = count - 2, height - 2, width - 2
    flat = padded.view(-1, channels)
    wanted = len(rows)
    out = padded.new_empty(frames, height, width, wanted)
    overlapping = [len(flat) - 2, 3 * channels], [channels, 1], [tile.positions, tile.depth]
    first, second = (
        TensorDescriptor.from_tensor(rows, [size, tile.depth]) for size in (tile.first, tile.second or tile.first)
    )
    blocks = triton.cdiv(frames * (height + 2) * (width + 2), tile.positions)
    parts = triton.cdiv(wanted, tile.first + tile.second)
    launch(
        _convolve,
        (blocks * parts,),
        TensorDescriptor(flat, *overlapping),
        first,
        second,
        out,
        frames,
        height,
        width,
        wanted,
        rows.shape[1] // (9 * tile.depth),
        tile.positions,
        tile.first,
        tile.second,
        tile.depth,
        tile.stages,
        num_warps=tile.warps,
    )
    return out
