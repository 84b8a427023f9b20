"""Convolutions over frames in the layout `[T, H, W, C]`, which cuDNN reads as channels last, without a copy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from .strip_rows import surrounded

if TYPE_CHECKING:
    from torch import Tensor, nn

LARGEST = 2**31 - 1
"""Most elements of a tensor that cuDNN's kernels of 32-bit indices take."""

THREE_DIMENSIONAL = (384,)
"""Numbers of channels at which cuDNN is faster with a convolution over frames in three dimensions than in two."""

PHASES = ((1.0, 0.0, 0.0), (0.0, 1.0, 1.0)), ((1.0, 1.0, 0.0), (0.0, 0.0, 1.0))
"""The even and the odd positions of a nearest upsampling by two followed by three taps: two taps on the input."""


@dataclass(frozen=True)
class DenseWeight:
    """The weight of a convolution.

    Attributes:
        weight: [K, C, kt, kh, kw], channels last.
        bias: [K], in float32 or float64.
        rows: The weight as the kernel of `margin_convolution` takes it: [K, 9 n], where n is 3 C, rounded up. None if
            another function convolves.
    """

    weight: Tensor
    bias: Tensor
    rows: Tensor | None = None

    @property
    def margin(self) -> int:
        """Positions around each frame of the input that hold zeros, or the rows of neighbours."""
        return 0 if self.rows is None else 1


def dense_weight(
    conv: nn.Conv2d | nn.Conv3d, doubled: tuple[int, ...] = (), dtype: torch.dtype | None = None
) -> DenseWeight:
    """Lay out the weight of a convolution.

    Args:
        conv: The convolution. One over frames alone becomes one with a single tap in time.
        doubled: Dimensions of the weight (2 time, 3 rows, 4 columns) in which nearest upsampling by two stands before
            it. The result acts on the input of the upsampling, and has its phases as output channels.
        dtype: The dtype of the result's weight; that of the convolution if not given.
    """
    weight = conv.weight.detach()
    weight = weight[:, :, None] if weight.dim() == 4 else weight
    if doubled:
        weight = phase_weights(weight, doubled)
    assert conv.bias is not None
    laid = weight.to(dtype or weight.dtype).contiguous(memory_format=torch.channels_last_3d)
    return DenseWeight(laid, wide(conv.bias.detach()))


def phase_weights(weight: Tensor, doubled: tuple[int, ...]) -> Tensor:
    """Weights of a convolution that gives the phases of nearest upsampling followed by three taps.

    Args:
        weight: [K, C, 3, 3, 3].
        doubled: See `dense_weight`.

    Returns:
        [2^n K, C, …] with two taps in each of the n dimensions; the phase of the last dimension changes fastest.
    """
    found = [wide(weight)]
    for dimension in doubled:
        taps = torch.tensor(PHASES, dtype=found[0].dtype, device=weight.device)
        found = [
            torch.tensordot(each, taps[phase], dims=([dimension], [1])).movedim(-1, dimension)
            for each in found
            for phase in (0, 1)
        ]
    return torch.cat(found).to(weight.dtype)


def convolve(x: Tensor, weight: Tensor, halo: int = 0, stride: tuple[int, int] = (1, 1)) -> Tensor:
    """Convolve frames, in time without padding.

    Args:
        x: [T, H, W, C], dense.
        weight: [K, C, kt, kh, kw], channels last.
        halo: Zeros around each frame. In a strip, rows of the neighbours stand above and below.
        stride: Steps in time, and within a frame.

    Returns:
        [(T - kt) // st + 1, (H + 2 halo - kh) // ss + 1, (W + 2 halo - kw) // ss + 1, K], dense.
    """
    grown = surrounded(x) if halo else None
    around = (halo, halo) if grown is None else (0, halo)
    x = x if grown is None else grown
    taps, rows, columns = weight.shape[2:]
    step, within = stride
    count = (x.shape[0] - taps) // step + 1
    height = (x.shape[1] + 2 * around[0] - rows) // within + 1
    width = (x.shape[2] + 2 * halo - columns) // within + 1
    frame = max(x[0].numel(), height * width * len(weight))
    if frame * x.shape[0] <= LARGEST:
        return _convolved(x, weight, around, stride)
    parts = -(-count // max(1, (LARGEST // frame - taps) // step))
    each = -(-count // parts)
    made = x.new_empty(count, height, width, len(weight))
    for start in range(0, count, each):
        end = min(start + each, count)
        made[start:end] = _convolved(x[start * step : (end - 1) * step + taps], weight, around, stride)
    return made


def _convolved(x: Tensor, weight: Tensor, around: tuple[int, int], stride: tuple[int, int]) -> Tensor:
    time, within = stride
    if weight.shape[2] == 1 and time == 1 and weight.shape[1] not in THREE_DIMENSIONAL:
        made = F.conv2d(x.permute(0, 3, 1, 2), weight[:, :, 0], padding=around, stride=within)
        return _dense(made.permute(0, 2, 3, 1))
    channels_last = x.permute(3, 0, 1, 2)[None]
    made = F.conv3d(channels_last, weight, padding=(0, *around), stride=(time, within, within))
    return _dense(made[0].permute(1, 2, 3, 0))


def _dense(frames: Tensor) -> Tensor:
    """Frames [T, H, W, K] in the dense layout. cuDNN's results are in it, so that a plan counts no copy."""
    if not frames.is_meta:
        return frames.contiguous()
    _, height, width, channels = frames.shape
    return frames.as_strided(frames.shape, (height * width * channels, width * channels, channels, 1))


def wide(tensor: Tensor) -> Tensor:
    """The tensor in float32, or as it is in float64."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()
