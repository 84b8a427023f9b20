"""The last convolution of a decoder has few output channels: one matrix product gives all taps, a sum joins them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from .dense_convolution import wide
from .frame_operations import sum_taps

if TYPE_CHECKING:
    from torch import Tensor, nn

PRODUCTS = 2**30
"""Most elements of the operands of a product."""


class LastConvolution:
    """A convolution of 3 x 3 x 3 taps, from the layout `[T, H, W, C]` to `[K, T, H, W]`.

    Args:
        conv: The convolution.
        dtype: The dtype of the product; that of the convolution if not given.
    """

    def __init__(self, conv: nn.Conv3d, dtype: torch.dtype | None = None) -> None:
        assert conv.kernel_size == (3, 3, 3)
        assert conv.bias is not None
        self.channels, self.bias = conv.out_channels, wide(conv.bias.detach())
        taps = conv.weight.detach().permute(2, 3, 4, 0, 1).flatten(0, 3)
        # cuBLAS has its fast kernels for numbers of rows that 16 divides.
        self.taps = F.pad(taps, (0, 0, 0, -len(taps) % 16)).to(dtype or taps.dtype).contiguous()

    def __call__(self, padded: Tensor, out: Tensor, *, clamp: bool = False) -> None:
        """Convolve frames with a margin of two in front and one around, [T + 2, H + 2, W + 2, C], dense.

        Args:
            padded: The frames.
            out: [K, T, H, W], each frame dense; it receives the result.
            clamp: Limit the result to [-1, 1].
        """
        frames, rows, columns, channels = padded.shape
        step = max(1, PRODUCTS // (rows * columns * max(channels, len(self.taps))) - 2)
        for start in range(0, frames - 2, step):
            part = padded[start : start + step + 2]
            flat = part.view(-1, channels)
            products = padded.new_empty(len(self.taps), -(-len(flat) // 64) * 64)
            torch.mm(self.taps, flat.T, out=products[:, : len(flat)])
            sum_taps(products, self.bias, (len(part), rows, columns), out[:, start : start + step], clamp=clamp)
