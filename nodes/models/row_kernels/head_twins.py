"""Heads of attention in e4m3, in plain torch: the meaning of the kernels of `head_triton`, and the code of a CPU.

Heads are [B, S, H, D]. A scale is one number of each head, [B, H]; a mean is [B, H, D]. Both are float32.
"""

from __future__ import annotations

import torch

from .quantized_rows import LARGEST, LEAST, rounded


def quantized_heads(x: torch.Tensor, scales: torch.Tensor, means: torch.Tensor | None) -> torch.Tensor:
    """(x - mean) / scale in e4m3, contiguous.

    Args:
        x: [B, S, H, D].
        scales: [B, H].
        means: [B, H, D]; None subtracts nothing.

    Returns:
        [B, S, H, D].
    """
    centred = x.float() if means is None else x.float() - means[:, None]
    return rounded(centred / scales[:, None, :, None], "fp8")


def centre_and_scales(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The mean of each head over its tokens, and scales with which x - mean stays in the range of e4m3.

    The largest magnitude plus that of the mean is a bound of x - mean, which one pass finds.

    Args:
        x: [B, S, H, D].

    Returns:
        Means [B, H, D] and scales [B, H].
    """
    means = x.mean(dim=1, dtype=torch.float32)
    return means, (largest(x) + means.abs().amax(-1)).clamp_min(LEAST) / LARGEST["fp8"]


def largest(x: torch.Tensor) -> torch.Tensor:
    """Largest magnitude of each head of [B, S, H, D]: [B, H]."""
    found: torch.Tensor = torch.linalg.vector_norm(x, ord=float("inf"), dim=(1, 3)).float()
    return found


def add_means_(x: torch.Tensor, means: torch.Tensor) -> torch.Tensor:
    """Add the mean of each head to its tokens, in place.

    Args:
        x: [B, S, H, D].
        means: [B, H, D].

    Returns:
        `x`. The sum is computed in float32 and rounded once.
    """
    return x.copy_(x.float() + means[:, None])
