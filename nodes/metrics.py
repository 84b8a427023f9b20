"""`metrics.compare`: the difference between frames and a reference."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from ..graph.contract.errors import NodeError
from ..graph.contract.node import node
from .support.frame_errors import WINDOW, frame_errors
from .support.lazy import lazy
from .values import Frames

if TYPE_CHECKING:
    import torch
else:
    torch = lazy("torch")


class Comparison(NamedTuple):
    """The result of `metrics.compare`."""

    psnr: float | None
    ssim: float
    largest: float


@node("metrics.compare")
def compare(frames: Frames, reference: Frames) -> Comparison:
    """Compare frames with a reference of the same shape.

    PSNR comes from the mean squared error over all pixels of the batch. SSIM follows Wang et al. 2004 (Gaussian
    window of 11 pixels, deviation 1.5) and is the mean over frames and colour channels.

    Args:
        frames: Frames in [0, 1], [B, F, H, W, 3].
        reference: Frames of the same shape.

    Returns:
        `psnr` in dB (null for equal frames, since JSON has no infinity); `ssim` in [-1, 1] (1 for equal frames);
        `largest`, the largest difference of a pixel value, in [0, 1].

    Raises:
        NodeError: If the shapes differ, or the frames are smaller than SSIM's window.
    """
    one, other = frames.tensor, reference.tensor
    if one.shape != other.shape:
        raise NodeError(f"frames of shape {list(one.shape)} cannot be compared with {list(other.shape)}")
    if min(one.shape[2:4]) < WINDOW:
        raise NodeError(f"SSIM needs frames of at least {WINDOW}x{WINDOW} pixels")
    if one.is_meta or other.is_meta:
        return Comparison(None, 1.0, 0.0)  # planning: there are no pixels to compare
    # The code works frame by frame, in double precision. A whole clip at once would need several times its memory.
    device = other.device if one.device.type == "cpu" else one.device
    found = [
        torch.stack(frame_errors(image.to(device), image_reference.to(device)))
        for clip, clip_reference in zip(one, other, strict=True)
        for image, image_reference in zip(clip, clip_reference, strict=True)
    ]
    squared, largest, similarity = torch.stack(found).unbind(1)
    error, ssim, difference = torch.stack([squared.mean(), similarity.mean(), largest.max()]).tolist()
    return Comparison(-10 * math.log10(error) if error > 0 else None, ssim, difference)
