"""A tiny Z-Image pipeline with random weights; see tests/helpers/tiny.py."""

from __future__ import annotations

from typing import Any

import torch

from helpers.tiny_tokenizers import qwen2_tokenizer


def build(**scheduler: Any) -> Any:
    """A pipeline; keyword arguments configure its scheduler (`use_dynamic_shifting`, `shift`)."""
    from diffusers import FlowMatchEulerDiscreteScheduler, ZImagePipeline

    return ZImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(**({"shift": 3.0} | scheduler)),
        vae=vae(),
        text_encoder=text_encoder(),
        tokenizer=qwen2_tokenizer(),
        transformer=transformer(),
    )


def transformer() -> Any:
    from diffusers import ZImageTransformer2DModel

    torch.manual_seed(0)
    made = ZImageTransformer2DModel(
        in_channels=16,
        dim=32,
        n_layers=2,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=16,
        axes_dims=[8, 4, 4],
        axes_lens=[512, 64, 64],
    ).eval()
    with torch.no_grad():  # zeros would hide mistakes in the padding
        made.x_pad_token.normal_()
        made.cap_pad_token.normal_()
    return made


def text_encoder() -> Any:
    from transformers import Qwen3Config, Qwen3Model

    torch.manual_seed(0)
    config = Qwen3Config(
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=8,
        vocab_size=512,
        max_position_embeddings=1024,
    )
    return Qwen3Model(config).eval()


def vae() -> Any:
    from diffusers import AutoencoderKL

    torch.manual_seed(0)
    return AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * 2,
        up_block_types=["UpDecoderBlock2D"] * 2,
        block_out_channels=[8, 16],
        layers_per_block=1,
        latent_channels=16,
        norm_num_groups=4,
        sample_size=32,
        scaling_factor=0.3611,
        shift_factor=0.1159,
    ).eval()
