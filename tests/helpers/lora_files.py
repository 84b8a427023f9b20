"""Files of random LoRA adapters for the tiny Wan transformer."""

from __future__ import annotations

from pathlib import Path

import torch

TARGETS = ["to_q", "to_k", "to_v", "to_out.0", "ffn.net.0.proj"]


def adapters(folder: Path, name: str, seed: int, rank: int = 4, alpha: int | None = None) -> Path:
    """A file of random adapters for the tiny Wan transformer, as diffusers' training scripts write it."""
    from diffusers import WanPipeline
    from diffusers.utils import convert_state_dict_to_diffusers
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict

    from helpers import tiny

    transformer = tiny.wan_transformer()
    config = LoraConfig(r=rank, lora_alpha=alpha or rank, target_modules=TARGETS)
    transformer.add_adapter(config)
    generator = torch.Generator().manual_seed(seed)
    for key, parameter in transformer.named_parameters():
        if "lora_" in key:
            parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator)
    layers = convert_state_dict_to_diffusers(get_peft_model_state_dict(transformer))
    metadata = None if alpha is None else config.to_dict()
    WanPipeline.save_lora_weights(
        folder, transformer_lora_layers=layers, weight_name=name, transformer_lora_adapter_metadata=metadata
    )
    return folder / name
