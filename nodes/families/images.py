"""Functions that image families share: sizes in whole patches, packing by 2 x 2, calls of the VAE, encoder plans."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..support.lazy import lazy
from ..values import Size

if TYPE_CHECKING:
    import torch

else:
    torch = lazy("torch")

PATCH = 2  # latents per side of a patch, in Z-Image, FLUX and Qwen-Image


def whole(width: int, height: int, factor: int) -> Size:
    """The largest image of whole patches within this size; `factor` is the number of pixels per side of a latent."""
    multiple = factor * PATCH
    return Size(width // multiple * multiple, height // multiple * multiple, 1)


def scale_factor(vae: Mapping[str, Any]) -> int:
    """Spatial downscaling factor of an `AutoencoderKL`: pixels per latent position along one side.

    It is 8 if the configuration is not known.
    """
    return 2 ** (len(vae["block_out_channels"]) - 1) if "block_out_channels" in vae else 8


def pack(latents: torch.Tensor) -> torch.Tensor:
    """[B, C, H, W] -> [B, H/2 * W/2, 4 C], a token for each patch, as `_pack_latents` of diffusers' pipelines does."""
    batch, channels, height, width = latents.shape
    latents = latents.view(batch, channels, height // 2, 2, width // 2, 2).permute(0, 2, 4, 1, 3, 5)
    return latents.reshape(batch, height // 2 * (width // 2), channels * 4)


def unpack(latents: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """The reverse of `pack`: [B, H/2 * W/2, 4 C] -> [B, C, H, W]; height and width in latents."""
    batch, _, channels = latents.shape
    latents = latents.view(batch, height // 2, width // 2, channels // 4, 2, 2).permute(0, 3, 1, 4, 2, 5)
    return latents.reshape(batch, channels // 4, height, width)


def schedule_arguments(steps: int, sigmas: Any, scheduler: Mapping[str, Any], mu: float | None) -> dict[str, Any]:
    """The arguments of the image pipelines for `set_timesteps`: the pipeline's noise levels and the shift's exponent.

    Solvers for other noise schedules (`use_flow_sigmas`) compute their own noise levels, as in FluxPipeline.
    """
    given = {"num_inference_steps": steps} if scheduler.get("use_flow_sigmas") else {"sigmas": sigmas}
    return given if mu is None else {**given, "mu": mu}


def to_frames(images: torch.Tensor) -> torch.Tensor:
    """Images of a VAE, [B, 3, H, W] in [-1, 1], as frames: float32 [B, 1, H, W, 3] in [0, 1]."""
    from diffusers.image_processor import VaeImageProcessor

    pixels = VaeImageProcessor().postprocess(images, output_type="pt")
    return pixels.permute(0, 2, 3, 1).unsqueeze(1).float()


def to_images(frames: torch.Tensor) -> torch.Tensor:
    """The reverse of `to_frames`, for clips of one frame."""
    return frames[:, 0].permute(0, 3, 1, 2) * 2.0 - 1.0


def decode(vae: Any, latents: torch.Tensor) -> torch.Tensor:
    """Decode latents [B, C, H, W] with an `AutoencoderKL` into frames."""
    latents = latents.to(vae.dtype) / vae.config.scaling_factor + (vae.config.shift_factor or 0.0)
    return to_frames(vae.decode(latents, return_dict=False)[0])


def encode(vae: Any, frames: torch.Tensor) -> torch.Tensor:
    """Encode frames with an `AutoencoderKL`: the mode of its distribution, normalised, float32 [B, C, H, W]."""
    latents = vae.encode(to_images(frames).to(vae.dtype)).latent_dist.mode().float()
    return (latents - (vae.config.shift_factor or 0.0)) * vae.config.scaling_factor
