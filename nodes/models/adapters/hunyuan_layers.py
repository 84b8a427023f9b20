"""Layers of the HunyuanVideo transformer and their names in its own repository and in ComfyUI. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .double_stream_layers import double_block, outside, single_block
from .layer_table import LayerTable, TableBuilder

FREQUENCIES = 256
"""Width of the sinusoidal embedding of a timestep in diffusers' `HunyuanVideoConditionEmbedding`."""

REFINER_RATIO = 4
"""Width of the refiner's feed-forward divided by the width of the model. diffusers has no setting for this factor."""


def hunyuan_video(config: Mapping[str, Any]) -> LayerTable:
    table = TableBuilder()
    head = config.get("attention_head_dim", 128)
    width = config.get("num_attention_heads", 24) * head
    inner = int(width * config.get("mlp_ratio", 4.0))
    patch, frames = config.get("patch_size", 2), config.get("patch_size_t", 1)
    channels, norms = config.get("in_channels", 16), config.get("qk_norm", "rms_norm") is not None
    table.layer("x_embedder.proj", width, channels, frames, patch, patch)
    _refiner(table, width, config)
    embed = "time_text_embed"
    table.timestep(f"{embed}.timestep_embedder", width, FREQUENCIES)
    table.timestep(f"{embed}.text_embedder", width, config.get("pooled_projection_dim", 768))
    if config.get("guidance_embeds", True):
        table.timestep(f"{embed}.guidance_embedder", width, FREQUENCIES)
    for index in range(config.get("num_layers", 20)):
        double_block(table, index, width, inner, head, norms=norms)
    for index in range(config.get("num_single_layers", 40)):
        single_block(table, index, width, inner, head, norms=norms)
    table.layer("norm_out.linear", 2 * width, width)
    table.layer("proj_out", frames * patch * patch * (config.get("out_channels", 16) or channels), width)
    table.alias("img_in.proj", "x_embedder.proj")
    outside(table)
    return table.build()


def _refiner(table: TableBuilder, width: int, config: Mapping[str, Any]) -> None:
    """Add the refiner of text tokens."""
    size = config.get("text_embed_dim", 4096)
    here, original = "context_embedder", "txt_in"
    table.timestep(f"{here}.time_text_embed.timestep_embedder", width, FREQUENCIES)
    table.timestep(f"{here}.time_text_embed.text_embedder", width, size)
    table.layer(f"{here}.proj_in", width, size)
    table.alias(f"{original}.input_embedder", f"{here}.proj_in")
    for order, index in (("1", "0"), ("2", "2")):
        time, text = (f"{here}.time_text_embed.{kind}_embedder.linear_{order}" for kind in ("timestep", "text"))
        table.alias(f"{original}.t_embedder.mlp.{index}", time)
        table.alias(f"{original}.t_embedder.{'in' if order == '1' else 'out'}_layer", time)
        table.alias(f"{original}.c_embedder.linear_{order}", text)
        table.alias(f"{original}.c_embedder.{'in' if order == '1' else 'out'}_layer", text)
    for number in range(config.get("num_refiner_layers", 2)):
        block = f"{here}.token_refiner.refiner_blocks.{number}"
        source = f"{original}.individual_token_refiner.blocks.{number}"
        layers = [f"{block}.attn.to_{letter}" for letter in "qkv"]
        table.layer(f"{block}.norm1", width)
        for layer in (*layers, f"{block}.attn.to_out.0"):
            table.layer(layer, width, width)
        table.layer(f"{block}.norm2", width)
        table.feed_forward(f"{block}.ff", width, REFINER_RATIO * width)
        table.layer(f"{block}.norm_out.linear", 2 * width, width)
        for norm in ("norm1", "norm2"):
            table.alias(f"{source}.{norm}", f"{block}.{norm}")
        table.alias(f"{source}.self_attn.qkv", *layers)
        table.alias(f"{source}.self_attn.proj", f"{block}.attn.to_out.0")
        for first, second in (("0", "2"), ("fc1", "fc2")):
            table.alias(f"{source}.mlp.{first}", f"{block}.ff.net.0.proj")
            table.alias(f"{source}.mlp.{second}", f"{block}.ff.net.2")
        table.alias(f"{source}.adaLN_modulation.1", f"{block}.norm_out.linear")
