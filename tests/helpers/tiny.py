"""Tiny models with random weights, in the layout of diffusers' repositories.

They have every part of their family's architecture at a tiny size, so their results can be compared with diffusers
number by number. Tokenizers are made here; nothing is downloaded.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any


def t5_tokenizer() -> Any:
    """A tokenizer of single printable characters."""
    from transformers import T5Tokenizer

    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    characters = [(chr(code), -3.0) for code in range(33, 127)]
    return T5Tokenizer(vocab=special + characters, extra_ids=0, additional_special_tokens=None, model_max_length=512)


def umt5_encoder(width: int = 32) -> Any:
    import torch
    from transformers import UMT5Config, UMT5EncoderModel

    torch.manual_seed(0)
    config = UMT5Config(
        vocab_size=128,
        d_model=width,
        d_kv=8,
        d_ff=37,
        num_layers=2,
        num_heads=4,
        dropout_rate=0.0,
        feed_forward_proj="gated-gelu",
        pad_token_id=0,
        eos_token_id=1,
    )
    return UMT5EncoderModel(config).eval()


def wan_transformer(layers: int = 2, seed: int = 0, channels: int = 16, **config: Any) -> Any:
    import torch
    from diffusers import WanTransformer3DModel

    torch.manual_seed(seed)
    return WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=channels,
        out_channels=16,
        text_dim=32,
        freq_dim=256,
        ffn_dim=32,
        num_layers=layers,
        cross_attn_norm=True,
        qk_norm="rms_norm_across_heads",
        rope_max_seq_len=32,
        **config,
    ).eval()


def wan_vae() -> Any:
    import torch
    from diffusers import AutoencoderKLWan

    torch.manual_seed(0)
    return AutoencoderKLWan(
        base_dim=3, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1, temperal_downsample=[False, True, True]
    ).eval()


def wan(layers: int = 2, experts: int = 1, **config: Any) -> Any:
    """A Wan text-to-video pipeline.

    Args:
        layers: Transformer blocks.
        experts: 2 for the layout of Wan 2.2 A14B; give a `boundary_ratio` then.
        config: Further configuration of the pipeline (`boundary_ratio`, `expand_timesteps`).
    """
    from diffusers import UniPCMultistepScheduler, WanPipeline

    scheduler = UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, num_train_timesteps=1000, flow_shift=3.0
    )
    return WanPipeline(
        tokenizer=t5_tokenizer(),
        text_encoder=umt5_encoder(),
        vae=wan_vae(),
        scheduler=scheduler,
        transformer=wan_transformer(layers),
        transformer_2=wan_transformer(layers, seed=1) if experts == 2 else None,
        **config,
    )


BUILDERS = {"wan": wan}


def save(family: str, folder: Path, **options: Any) -> Path:
    """Build a tiny pipeline and save it in `folder`, for the `source` of model.load."""
    BUILDERS[family](**options).save_pretrained(folder)
    return folder
