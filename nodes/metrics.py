"""`metrics.compare`: the difference between frames and a reference."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from ..graph.contract.errors import NodeError
from ..graph.contract.node import node
from .support.lazy import lazy
from .values import Frames

if TYPE_CHECKING:
    import torch
else:
    torch = lazy("torch")

# Wang et al. 2004, "Image quality assessment: from error visibility to structural similarity", section III.C.
WINDOW, DEVIATION, K1, K2 = 11, 1.5, 0.01, 0.03


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
    squared, similarity, largest = [], [], []
    # The code works frame by frame, in double precision. A whole clip at once would need several times its memory.
    for clip, clip_reference in zip(one, other.to(one.device), strict=True):
        for image, image_reference in zip(clip, clip_reference, strict=True):
            x, y = (t.permute(2, 0, 1).unsqueeze(0).double() for t in (image, image_reference))
            squared.append((x - y).square().mean())
            largest.append((x - y).abs().max())
            similarity.append(_ssim(x, y))
    error, ssim, difference = torch.stack(
        [torch.stack(squared).mean(), torch.stack(similarity).mean(), torch.stack(largest).max()]
    ).tolist()
    return Comparison(-10 * math.log10(error) if error > 0 else None, ssim, difference)


def _ssim(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Mean structural similarity of two images [1, C, H, W] in [0, 1], for all windows inside the images."""
    offsets = torch.arange(WINDOW, dtype=x.dtype, device=x.device) - WINDOW // 2
    weights = torch.exp(-(offsets**2) / (2 * DEVIATION**2))
    weights = weights / weights.sum()
    channels = x.shape[1]

    def blur(image: torch.Tensor) -> torch.Tensor:
        columns = weights.view(1, 1, WINDOW, 1).expand(channels, 1, WINDOW, 1)
        rows = weights.view(1, 1, 1, WINDOW).expand(channels, 1, 1, WINDOW)
        image = torch.nn.functional.conv2d(image, columns, groups=channels)
        return torch.nn.functional.conv2d(image, rows, groups=channels)

    mean_x, mean_y = blur(x), blur(y)
    variance_x, variance_y = blur(x * x) - mean_x**2, blur(y * y) - mean_y**2
    covariance = blur(x * y) - mean_x * mean_y
    c1, c2 = K1**2, K2**2  # for pixels in [0, 1]
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    structure = (2 * covariance + c2) / (variance_x + variance_y + c2)
    return (luminance * structure).mean()
