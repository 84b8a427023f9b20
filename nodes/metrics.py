"""`metrics.compare`: the difference between frames and a reference."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ..graph.contract.diagnostics import Diagnostic
from ..graph.contract.errors import NodeError
from ..graph.contract.facts import NodeFacts, require
from ..graph.contract.node import Run, node
from .support import perceptual
from .support.frame_errors import WINDOW, frame_errors
from .support.input_files import file_problems
from .support.lazy import lazy
from .value_facts import FramesFacts
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
    lpips: float | None


@dataclass(frozen=True, kw_only=True)
class MetricsCompareFacts(NodeFacts):
    """Facts of `metrics.compare`."""

    frames: FramesFacts = FramesFacts()
    reference: FramesFacts = FramesFacts()
    weights: str | None = None


def _check(facts: MetricsCompareFacts) -> Iterator[Diagnostic]:
    yield from file_problems(facts.weights, "weights")


@node("metrics.compare", check=_check, version=2)
def compare(run: Run, frames: Frames, reference: Frames, *, weights: Path | None = None) -> Comparison:
    """Compare frames with a reference of the same shape.

    PSNR comes from the mean squared error over all pixels of the batch. SSIM follows Wang et al. 2004 (Gaussian
    window of 11 pixels, deviation 1.5) and is the mean over frames and colour channels.

    LPIPS follows Zhang et al. 2018: the distance of the features of a network, by the package lpips (`pip install
    'sgd[lpips]'`). The network's weights are not part of the package, and nothing is downloaded: `weights` names their
    file. LPIPS is the mean over frames.

    Args:
        frames: Frames in [0, 1], [B, F, H, W, 3].
        reference: Frames of the same shape.
        weights: Weights of AlexNet, VGG16 or SqueezeNet 1.1 as torchvision saves them, in a file of safetensors or of
            torch. Without it, LPIPS is not computed.

    Returns:
        `psnr` in dB (null for equal frames, since JSON has no infinity); `ssim` in [-1, 1] (1 for equal frames);
        `largest`, the largest difference of a pixel value, in [0, 1]; `lpips`, 0 for equal frames, null without
        `weights`, and null with a warning where it cannot be computed.

    Raises:
        NodeError: If the shapes differ, the frames are smaller than SSIM's window, or `weights` cannot be read or are
            of no known network.
    """
    require(_check, MetricsCompareFacts(weights=None if weights is None else str(weights)))
    one, other = frames.tensor, reference.tensor
    if one.shape != other.shape:
        raise NodeError(f"frames of shape {list(one.shape)} cannot be compared with {list(other.shape)}")
    if min(one.shape[2:4]) < WINDOW:
        raise NodeError(f"SSIM needs frames of at least {WINDOW}x{WINDOW} pixels")
    if one.is_meta or other.is_meta:
        return Comparison(None, 1.0, 0.0, None)  # planning: there are no pixels to compare
    # The code works frame by frame, in double precision. A whole clip at once would need several times its memory.
    device = other.device if one.device.type == "cpu" else one.device
    found = [
        torch.stack(frame_errors(image.to(device), image_reference.to(device)))
        for clip, clip_reference in zip(one, other, strict=True)
        for image, image_reference in zip(clip, clip_reference, strict=True)
    ]
    squared, largest, similarity = torch.stack(found).unbind(1)
    error, ssim, difference = torch.stack([squared.mean(), similarity.mean(), largest.max()]).tolist()
    lpips = None if weights is None else _lpips(run, frames, reference, weights)
    return Comparison(-10 * math.log10(error) if error > 0 else None, ssim, difference, lpips)


def _lpips(run: Run, frames: Frames, reference: Frames, weights: Path) -> float | None:
    """The mean over all frames; None, with a warning, if it cannot be computed."""
    pairs = list(zip(frames.tensor.flatten(0, 1), reference.tensor.flatten(0, 1), strict=True))
    reason = perceptual.unavailable() or perceptual.too_small(pairs[0][0])
    if reason is not None:
        run.warn(f"LPIPS is unavailable: {reason}", "weights")
        return None
    return sum(perceptual.distance(one, other, weights) for one, other in pairs) / len(pairs)
