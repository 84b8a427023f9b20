"""The difference of two frames: mean squared error, largest difference, structural similarity."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from .lazy import lazy

if TYPE_CHECKING:
    import torch
else:
    torch = lazy("torch")

# Wang et al. 2004, "Image quality assessment: from error visibility to structural similarity", section III.C.
WINDOW, DEVIATION, K1, K2 = 11, 1.5, 0.01, 0.03


class FrameErrors(NamedTuple):
    """The difference of two frames, as float64 tensors without axes. `ssim` is NaN for frames below `WINDOW` pixels."""

    squared: torch.Tensor
    largest: torch.Tensor
    ssim: torch.Tensor


def frame_errors(frame: torch.Tensor, reference: torch.Tensor) -> FrameErrors:
    """Compare two frames [H, W, 3] of one size with values in [0, 1], in double precision."""
    x, y = (t.permute(2, 0, 1).unsqueeze(0).double() for t in (frame, reference))
    difference = x - y
    similarity = ssim(x, y) if min(frame.shape[:2]) >= WINDOW else torch.full((), torch.nan, dtype=torch.double)
    return FrameErrors(difference.square().mean(), difference.abs().max(), similarity)


def ssim(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Mean structural similarity of two images [1, C, H, W] in [0, 1], for all windows inside the images."""
    offsets = torch.arange(WINDOW, dtype=torch.double) - WINDOW // 2
    weights = torch.exp(-(offsets**2) / (2 * DEVIATION**2))
    each = (weights / weights.sum()).tolist()

    def blur(image: torch.Tensor) -> torch.Tensor:
        # On a CPU, sums of shifted images take a sixth of the time of a convolution of single channels.
        return _shifted_sum(_shifted_sum(image, 2, each), 3, each)

    mean_x, mean_y = blur(x), blur(y)
    variance_x, variance_y = blur(x * x) - mean_x**2, blur(y * y) - mean_y**2
    covariance = blur(x * y) - mean_x * mean_y
    c1, c2 = K1**2, K2**2  # for pixels in [0, 1]
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    structure = (2 * covariance + c2) / (variance_x + variance_y + c2)
    return (luminance * structure).mean()


def _shifted_sum(image: torch.Tensor, axis: int, weights: list[float]) -> torch.Tensor:
    """The weighted sum of `WINDOW` neighbours along an axis, for all windows inside the image."""
    length = image.shape[axis] - WINDOW + 1
    total = image.narrow(axis, 0, length) * weights[0]
    for offset in range(1, WINDOW):
        total.add_(image.narrow(axis, offset, length), alpha=weights[offset])
    return total
