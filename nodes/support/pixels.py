"""Conversion between frames and the 8-bit pixels of files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .lazy import lazy

if TYPE_CHECKING:
    import numpy
    import torch
else:
    numpy, torch = lazy("numpy"), lazy("torch")


def to_bytes(frames: torch.Tensor) -> numpy.ndarray[Any, Any]:
    """Frames [..., 3] in [0, 1] as uint8 on the CPU, rounded as in diffusers' `numpy_to_pil`."""
    return (frames.float().clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()


def from_bytes(pixels: numpy.ndarray[Any, Any]) -> torch.Tensor:
    """uint8 pixels as float32 in [0, 1]."""
    return torch.from_numpy(numpy.array(pixels)).float() / 255
