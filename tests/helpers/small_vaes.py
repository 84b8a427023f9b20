"""Small VAEs of random weights in float64, in which every weight matters."""

from __future__ import annotations

from typing import Any

import torch

WAN_2_1 = {"base_dim": 8, "z_dim": 4}
WAN_2_2 = {
    "base_dim": 8,
    "decoder_base_dim": 16,
    "z_dim": 6,
    "is_residual": True,
    "in_channels": 12,
    "out_channels": 12,
    "patch_size": 2,
    "scale_factor_spatial": 16,
}


def hunyuan_vae(**config: Any) -> Any:
    from diffusers import AutoencoderKLHunyuanVideo

    torch.manual_seed(0)
    sizes = {"block_out_channels": (8, 8, 16, 16), "layers_per_block": 1, "latent_channels": 4, "norm_num_groups": 4}
    return _spread(AutoencoderKLHunyuanVideo(**sizes | config))


def wan_vae(**config: Any) -> Any:
    from diffusers import AutoencoderKLWan

    torch.manual_seed(0)
    width = config["z_dim"]
    both = {"num_res_blocks": 1, "latents_mean": [0.0] * width, "latents_std": [1.0] * width}
    return _spread(AutoencoderKLWan(**both | config))


def _spread(vae: Any) -> Any:
    """Norms and biases that differ from channel to channel, as those of a trained model do."""
    for name, parameter in vae.named_parameters():
        if parameter.dim() == 1 or "gamma" in name:
            torch.nn.init.normal_(parameter, 1.0 if "gamma" in name or "norm" in name else 0.0, 0.3)
    return vae.double().eval().requires_grad_(False)
