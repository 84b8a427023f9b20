"""Layers of the Qwen-Image transformer (`QwenImageTransformer2DModel`), with the names of diffusers. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .layer_table import LayerTable, TableBuilder

FREQUENCIES = 256
"""Width of the sinusoidal embedding of a timestep in diffusers' `QwenTimestepProjEmbeddings`."""


def qwen_image(config: Mapping[str, Any]) -> LayerTable:
    table = TableBuilder()
    head = config.get("attention_head_dim", 128)
    width = config.get("num_attention_heads", 24) * head
    text, patch = config.get("joint_attention_dim", 3584), config.get("patch_size", 2)
    channels = config.get("in_channels", 64)
    table.timestep("time_text_embed.timestep_embedder", width, FREQUENCIES)
    if config.get("use_additional_t_cond", False):
        table.layer("time_text_embed.addition_t_embedding", 2, width, bias=False)
    table.norm("txt_norm", text)
    table.layer("img_in", width, channels)
    table.layer("txt_in", width, text)
    for index in range(config.get("num_layers", 60)):
        block = f"transformer_blocks.{index}"
        for stream in ("img", "txt"):
            table.layer(f"{block}.{stream}_mod.1", 6 * width, width)
            table.feed_forward(f"{block}.{stream}_mlp", width, 4 * width)
        for layer in ("to_q", "to_k", "to_v", "add_q_proj", "add_k_proj", "add_v_proj", "to_out.0", "to_add_out"):
            table.layer(f"{block}.attn.{layer}", width, width)
        for norm in ("norm_q", "norm_k", "norm_added_q", "norm_added_k"):
            table.norm(f"{block}.attn.{norm}", head)
    table.layer("norm_out.linear", 2 * width, width)
    table.layer("proj_out", patch * patch * (config.get("out_channels", 16) or channels), width)
    return table.build()
