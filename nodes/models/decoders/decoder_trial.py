"""Whether the kernels of a rebuilt decoder work on a device: one of them is called on a few frames, beside its twin.

`convolution_choice` tries the kernel of convolutions in the same way.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from ..row_kernels.kernel_trial import disagreement
from .frame_operations import pad
from .frame_values import Affine, Margin
from .norm_operations import norm_silu
from .rebuilt_vae import working_dtype

if TYPE_CHECKING:
    from torch import Tensor

FRAMES = 2, 5, 40
"""Frames, rows and columns of the trial. 40 columns fill the tiles that a decode of full size has."""


def problem(vae: Any, device: str) -> str | None:
    """The reason why the kernels cannot be used; None if they work. A plan, on the meta device, expects that they do.

    Args:
        vae: A VAE that `rebuilt_vae` knows. The trial has the dtype of its work, and the width of its first layer.
        device: The device of the run.
    """
    if device == "meta":
        return None
    place, width, operation = torch.device(device), _width(vae), _operation(vae)
    generator = torch.Generator().manual_seed(0)
    x, *vectors = (torch.randn(*size, width, generator=generator) for size in (FRAMES, (), ()))
    x = x.to(working_dtype(vae, place))

    def on(device: torch.device) -> Tensor:
        return operation(*(tensor.to(device) for tensor in (x, *vectors)))

    return disagreement(lambda: (on(place).cpu(), on(torch.device("cpu"))))


def gathered(vae: Any) -> None:
    """Launch the kernel of the trial in a thread that gathers launches. `vae` is on the meta device."""
    meta, width = torch.device("meta"), _width(vae)
    x = torch.empty(*FRAMES, width, dtype=working_dtype(vae, meta), device=meta)
    vectors = (torch.empty(width, dtype=torch.float32, device=meta) for _ in range(2))
    _operation(vae)(x, *vectors)


def _width(vae: Any) -> int:
    """The width of the first layer."""
    return int(next(vae.parameters()).shape[0])


def _operation(vae: Any) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    return _normed if type(vae).__name__ == "AutoencoderKLWan" else _padded


def _normed(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The operation between two convolutions of Wan's decoder."""
    out = torch.empty_like(x)
    norm_silu(x, weight, out, bias=bias)
    return out


def _padded(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """The operation between two convolutions of HunyuanVideo's decoder."""
    return pad(x, Margin(2, 1, 1), affine=Affine(scale, shift), silu=True)
