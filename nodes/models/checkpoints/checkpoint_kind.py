"""A guess at the content of a file, for messages. Torch-free."""

from __future__ import annotations

from .stored_tensors import CheckpointHeader

KINDS: tuple[tuple[str, str], ...] = (
    ("lora_", "a LoRA: give it to `model.lora`"),
    (".lora.", "a LoRA: give it to `model.lora`"),
    ("hada_w1", "a LoRA: give it to `model.lora`"),
    ("lokr_w", "a LoRA: give it to `model.lora`"),
    ("control_blocks.", "a ControlNet"),
    ("controlnet", "a ControlNet"),
    ("vace_blocks.", "a Wan VACE transformer, which is not supported"),
    ("individual_token_refiner", "a transformer of HunyuanVideo"),
    ("double_blocks.", "a transformer of FLUX or HunyuanVideo"),
    ("cap_embedder.", "a transformer of Z-Image"),
    ("head.modulation", "a transformer of Wan"),
    ("condition_embedder.", "a transformer of Wan"),
    ("transformer_blocks.0.img_mod", "a transformer of Qwen-Image"),
    ("single_transformer_blocks.", "a transformer of FLUX or HunyuanVideo"),
    ("decoder.middle.", "a VAE of Wan or Qwen-Image"),
    ("decoder.mid.block_1", "a VAE of images"),
    ("decoder.mid_block.", "a VAE"),
    ("SelfAttention.", "a T5 or UMT5 text encoder"),
    ("enc.blk.", "a T5 or UMT5 text encoder"),
    ("text_model.", "a CLIP text encoder"),
    ("vision_model.", "a CLIP image encoder"),
    ("encoder.layers.0.self_attn.", "a CLIP encoder"),
    ("layers.0.self_attn.q_proj", "a language model"),
    ("blk.0.attn_q.", "a language model"),
    ("input_blocks.", "a model of Stable Diffusion"),
    ("joint_blocks.", "a transformer of Stable Diffusion 3"),
)
"""A part of names, and the files that have it; the first that fits counts."""


def kind_of(header: CheckpointHeader) -> str | None:
    """The kind of file that its names of tensors suggest; None if they suggest none."""
    return next((kind for part, kind in KINDS if any(part in name for name in header.tensors)), None)
