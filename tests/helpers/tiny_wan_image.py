"""Tiny Wan models that take an image: with CLIP (2.1), without (2.2 A14B), with a first and last frame, and TI2V."""

from __future__ import annotations

from typing import Any

from helpers import tiny

CLIP_WIDTH = 8
TOKENS = 17  # tokens of one image: 4 x 4 patches and the class token


def image_encoder() -> Any:
    import torch
    from transformers import CLIPVisionConfig, CLIPVisionModel

    torch.manual_seed(0)
    config = CLIPVisionConfig(
        hidden_size=CLIP_WIDTH,
        intermediate_size=16,
        projection_dim=4,
        num_hidden_layers=3,
        num_attention_heads=2,
        image_size=32,
        patch_size=8,
    )
    return CLIPVisionModel(config).eval()


def image_processor() -> Any:
    from transformers import CLIPImageProcessor

    return CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})


def image_to_video(*, clip: bool = True, last: bool = False, experts: int = 1, **config: Any) -> Any:
    """A Wan image-to-video pipeline.

    Args:
        clip: Whether the transformer takes CLIP's embedding: Wan 2.1 does, 2.2 does not.
        last: Whether it is trained on a first and a last frame (FLF2V); with CLIP only.
        experts: 2 for the layout of A14B; give a `boundary_ratio` then.
        config: Further configuration of the pipeline.
    """
    from diffusers import WanImageToVideoPipeline

    base = tiny.wan()
    options: dict[str, Any] = {"image_dim": CLIP_WIDTH, "added_kv_proj_dim": 24} if clip else {}
    if last:
        options["pos_embed_seq_len"] = 2 * TOKENS
    return WanImageToVideoPipeline(
        tokenizer=base.tokenizer,
        text_encoder=base.text_encoder,
        vae=base.vae,
        scheduler=base.scheduler,
        image_processor=image_processor() if clip else None,
        image_encoder=image_encoder() if clip else None,
        transformer=_filled(tiny.wan_transformer(channels=36, **options)),
        transformer_2=tiny.wan_transformer(channels=36, seed=1, **options) if experts == 2 else None,
        **config,
    )


def ti2v() -> Any:
    """A Wan 2.2 TI2V pipeline: timesteps per token, and a VAE of another layout with 16 x 16 pixels per latent."""
    import torch
    from diffusers import AutoencoderKLWan, WanPipeline

    base = tiny.wan()
    torch.manual_seed(0)
    vae = AutoencoderKLWan(
        base_dim=3,
        decoder_base_dim=6,
        z_dim=16,
        dim_mult=[1, 1, 1, 1],
        num_res_blocks=1,
        temperal_downsample=[False, True, True],
        is_residual=True,
        patch_size=2,
        in_channels=12,
        out_channels=12,
        scale_factor_spatial=16,
    ).eval()
    return WanPipeline(
        tokenizer=base.tokenizer,
        text_encoder=base.text_encoder,
        vae=vae,
        scheduler=base.scheduler,
        transformer=base.transformer,
        expand_timesteps=True,
    )


def _filled(transformer: Any) -> Any:
    """Set the positions of the two images, which the class leaves at zero, to random values."""
    import torch

    embedder = transformer.condition_embedder.image_embedder
    if embedder is not None and embedder.pos_embed is not None:
        torch.nn.init.normal_(embedder.pos_embed)
    return transformer


def picture(width: int = 40, height: int = 36, seed: int = 0) -> Any:
    """An image of another size than the clips."""
    import numpy
    from PIL import Image

    pixels = numpy.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=numpy.uint8)
    return Image.fromarray(pixels)
