"""Put a rebuilt decoder into a view of a VAE. Everything else of the VAE, tiles included, stays diffusers'."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from .hunyuan_video_decoder import HunyuanVideoDecoder
from .wan_decoder import WanDecoder

OVERFLOW = "decoding in float16 gave values that are not finite; the clip is decoded again in {dtype}"


def rebuild(vae: nn.Module, warn: Callable[[str], None]) -> str | None:
    """Let a VAE decode with the rebuilt decoder of its class.

    The decoder takes the VAE's weights at its first call. Those weights must be in memory then, and may not move later.

    Args:
        vae: A view of a VAE of diffusers.
        warn: Receives warnings at a call.

    Returns:
        None, or the reason why the VAE stays as it is.
    """
    match type(vae).__name__:
        case "AutoencoderKLHunyuanVideo":
            vae.decoder.forward = _HunyuanVideo(vae.decoder)  # type: ignore[union-attr]
        case "AutoencoderKLWan":
            vae._decode = _Wan(vae, warn)  # type: ignore[assignment]
        case other:
            return f"there is no rebuilt decoder of {other}"
    return None


class _HunyuanVideo:
    """The `forward` of HunyuanVideo's decoder. diffusers calls it for each tile in time and space."""

    def __init__(self, module: Any) -> None:
        self.module, self.made = module, None

    def __call__(self, hidden_states: Tensor) -> Tensor:
        if self.made is None:
            self.made = HunyuanVideoDecoder(self.module)
        return self.made(hidden_states)


class _Wan:
    """The method `_decode` of Wan's VAE.

    A VAE in float32 decodes in float16, which has as many digits as the TF32 of its convolutions on a GPU.
    """

    def __init__(self, vae: Any, warn: Callable[[str], None]) -> None:
        self.vae, self.warn = vae, warn
        self.own = type(vae)._decode.__get__(vae)
        self.made: WanDecoder | None = None

    def __call__(self, z: Tensor, return_dict: bool = True) -> Any:
        vae = self.vae
        if vae.use_tiling and max(z.shape[-2] - _tile(vae, "height"), z.shape[-1] - _tile(vae, "width")) > 0:
            return self.own(z, return_dict=return_dict)
        if self.made is None:
            narrow = vae.dtype is torch.float32 and z.is_cuda
            self.made = WanDecoder(vae.decoder, torch.float16 if narrow else vae.dtype)
        latents = vae.post_quant_conv(z)
        found = torch.stack([self.made(clip) for clip in latents])
        if self.made.dtype is not vae.dtype and not bool(torch.isfinite(found).all()):
            self.warn(OVERFLOW.format(dtype=str(vae.dtype).removeprefix("torch.")))
            return self.own(z, return_dict=return_dict)
        if vae.config.patch_size is not None:
            from diffusers.models.autoencoders.autoencoder_kl_wan import unpatchify

            found = unpatchify(found, patch_size=vae.config.patch_size)
        found = found.to(vae.dtype)
        if not return_dict:
            return (found,)
        from diffusers.models.autoencoders.vae import DecoderOutput

        return DecoderOutput(sample=found)


def _tile(vae: Any, side: str) -> int:
    """The largest side of latents that diffusers decodes without tiles."""
    size: int = getattr(vae, f"tile_sample_min_{side}") // vae.spatial_compression_ratio
    return size
