"""Convolutions of 3 x 3 x 3 taps over frames with margins, for numbers of channels at which cuDNN is slow.

The operation has a Triton kernel (`margin_convolution_kernels`) and a twin: cuDNN's convolution, or that of a CPU.
`convolution_choice` tells which weights go this way.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch.nn.functional as F

from .dense_convolution import convolve
from .frame_operations import on_kernels
from .margin_tiles import TILES

if TYPE_CHECKING:
    from torch import Tensor

    from .dense_convolution import DenseWeight


def laid_out(weight: DenseWeight) -> DenseWeight:
    """The same weight, with rows for the kernel: a view of it, or a copy if tiles need zeros at the end of each row."""
    count, channels = weight.weight.shape[:2]
    rows = weight.weight.permute(0, 2, 3, 4, 1).view(count, 9, 3 * channels)
    more = -3 * channels % TILES[channels, count].depth
    return replace(weight, rows=(F.pad(rows, (0, more)) if more else rows).view(count, -1))


def convolve_margins(padded: Tensor, weight: DenseWeight) -> Tensor:
    """Convolve frames whose margins are filled already.

    Args:
        padded: Frames with two in front and a margin of one around each, [T + 2, H + 2, W + 2, C], dense.
        weight: A weight of `laid_out`.

    Returns:
        [T, H, W, K], dense.
    """
    if on_kernels(padded):
        from . import margin_convolution_kernels

        assert weight.rows is not None
        tile = TILES[weight.weight.shape[1], len(weight.weight)]
        return margin_convolution_kernels.convolve(padded, weight.rows, tile)
    return convolve(padded, weight.weight)
