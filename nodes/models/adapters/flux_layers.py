"""Layers of the FLUX.1 transformer (`FluxTransformer2DModel`) and their names in FLUX's own repository. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .double_stream_layers import double_block, outside, single_block
from .layer_table import LayerTable, TableBuilder

FREQUENCIES = 256
"""Width of the sinusoidal embedding of a timestep in diffusers' `CombinedTimestepTextProjEmbeddings`."""


def flux(config: Mapping[str, Any]) -> LayerTable:
    table = TableBuilder()
    head = config.get("attention_head_dim", 128)
    width = config.get("num_attention_heads", 24) * head
    patch, channels = config.get("patch_size", 1), config.get("in_channels", 64)
    embed = "time_text_embed"
    table.timestep(f"{embed}.timestep_embedder", width, FREQUENCIES)
    if config.get("guidance_embeds", False):
        table.timestep(f"{embed}.guidance_embedder", width, FREQUENCIES)
    table.timestep(f"{embed}.text_embedder", width, config.get("pooled_projection_dim", 768))
    table.layer("context_embedder", width, config.get("joint_attention_dim", 4096))
    table.layer("x_embedder", width, channels)
    for index in range(config.get("num_layers", 19)):
        double_block(table, index, width, 4 * width, head)
    for index in range(config.get("num_single_layers", 38)):
        single_block(table, index, width, 4 * width, head)
    table.layer("norm_out.linear", 2 * width, width)
    table.layer("proj_out", patch * patch * (config.get("out_channels") or channels), width)
    table.alias("img_in", "x_embedder")
    table.alias("txt_in", "context_embedder")
    outside(table)
    return table.build()
