"""Files of LoRA adapters for the tiny Wan transformer, and the diagnostics of `sgd check` for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from sgd.graph.contract.diagnostics import Diagnostic
from sgd.nodes.models.nodes.model_load import load
from sgd.nodes.models.nodes.model_lora import lora

from helpers import node_facts

WIDTH = 24
"""Width of the tiny Wan transformer."""

Q, K = "diffusion_model.blocks.0.self_attn.q", "diffusion_model.blocks.0.self_attn.k"
"""Two of its layers, as ComfyUI names them."""

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


def ones(*shape: int) -> torch.Tensor:
    return torch.ones(shape)


def pair(name: str, rank: int = 4, into: int = WIDTH, out: int = WIDTH) -> dict[str, torch.Tensor]:
    """The two factors of a LoRA for a layer."""
    return {f"{name}.lora_down.weight": ones(rank, into), f"{name}.lora_up.weight": ones(out, rank)}


GOOD = pair(Q)
"""A file that fits."""


def saved(folder: Path, tensors: dict[str, torch.Tensor]) -> str:
    save_file(tensors, folder / "a.safetensors")
    return str(folder / "a.safetensors")


def checked(wan_folder: Path, source: str, **options: Any) -> list[Diagnostic]:
    """The diagnostics of `sgd check` for a LoRA on the model in a folder."""
    facts = load.node.describe(node_facts.facts(load.node, {"source": str(wan_folder)}))  # type: ignore[misc]
    return node_facts.check(lora, model=facts, source=source, component="transformer", **options)
