"""Layers of the Wan transformer (`WanTransformer3DModel`) and their names in Wan's own repository. Torch-free."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from .layer_table import LayerTable, TableBuilder

ATTENTION = {"q": "to_q", "k": "to_k", "v": "to_v", "o": "to_out.0", "norm_q": "norm_q", "norm_k": "norm_k"}
IMAGE_ATTENTION = {"k_img": "add_k_proj", "v_img": "add_v_proj", "norm_k_img": "norm_added_k"}
"""Layers of an attention: names in Wan's own repository, and names in diffusers."""

OUTSIDE = {
    "time_embedding.0": "condition_embedder.time_embedder.linear_1",
    "time_embedding.2": "condition_embedder.time_embedder.linear_2",
    "time_projection.1": "condition_embedder.time_proj",
    "text_embedding.0": "condition_embedder.text_embedder.linear_1",
    "text_embedding.2": "condition_embedder.text_embedder.linear_2",
    "img_emb.proj.0": "condition_embedder.image_embedder.norm1",
    "img_emb.proj.1": "condition_embedder.image_embedder.ff.net.0.proj",
    "img_emb.proj.3": "condition_embedder.image_embedder.ff.net.2",
    "img_emb.proj.4": "condition_embedder.image_embedder.norm2",
    "img_emb.emb_pos": "condition_embedder.image_embedder.pos_embed",
    "head.head": "proj_out",
    "head.modulation": "scale_shift_table",
}
"""Layers outside of the blocks: names in Wan's own repository, and names in diffusers."""


def wan(config: Mapping[str, Any]) -> LayerTable:
    table = TableBuilder()
    width = config.get("num_attention_heads", 40) * config.get("attention_head_dim", 128)
    patch = tuple(config.get("patch_size", (1, 2, 2)))
    channels = config.get("in_channels", 16)
    image, positions = config.get("image_dim"), config.get("pos_embed_seq_len")
    table.parameter("scale_shift_table", 1, 2, width)
    table.layer("patch_embedding", width, channels, *patch)
    embedder = "condition_embedder"
    table.timestep(f"{embedder}.time_embedder", width, config.get("freq_dim", 256))
    table.layer(f"{embedder}.time_proj", 6 * width, width)
    table.timestep(f"{embedder}.text_embedder", width, config.get("text_dim", 4096))
    if image is not None:
        table.layer(f"{embedder}.image_embedder.norm1", image)
        table.layer(f"{embedder}.image_embedder.ff.net.0.proj", image, image)
        table.layer(f"{embedder}.image_embedder.ff.net.2", width, image)
        table.layer(f"{embedder}.image_embedder.norm2", width)
        if positions is not None:
            table.parameter(f"{embedder}.image_embedder.pos_embed", 1, positions, image)
    for index in range(config.get("num_layers", 40)):
        _block(table, f"blocks.{index}", width, config)
    table.layer("proj_out", (config.get("out_channels", 16) or channels) * math.prod(patch), width)
    for original, name in OUTSIDE.items():
        table.alias(original, name)
    return table.build()


def _block(table: TableBuilder, block: str, width: int, config: Mapping[str, Any]) -> None:
    added = config.get("added_kv_proj_dim")
    table.parameter(f"{block}.scale_shift_table", 1, 6, width)
    for attention in ("attn1", "attn2"):
        for layer in ("to_q", "to_k", "to_v", "to_out.0"):
            table.layer(f"{block}.{attention}.{layer}", width, width)
        table.norm(f"{block}.{attention}.norm_q", width)
        table.norm(f"{block}.{attention}.norm_k", width)
    if added is not None:
        table.layer(f"{block}.attn2.add_k_proj", width, added)
        table.layer(f"{block}.attn2.add_v_proj", width, added)
        table.norm(f"{block}.attn2.norm_added_k", width)
    if config.get("cross_attn_norm", True):
        table.layer(f"{block}.norm2", width)
    table.feed_forward(f"{block}.ffn", width, config.get("ffn_dim", 13824))
    for original, attention in (("self_attn", "attn1"), ("cross_attn", "attn2")):
        for short, name in {**ATTENTION, **IMAGE_ATTENTION}.items():
            table.alias(f"{block}.{original}.{short}", f"{block}.{attention}.{name}")
        here = [f"{block}.{attention}.to_{letter}" for letter in "qkv"]
        table.alias(f"{block}.{original}.qkv", *here)
        table.alias(f"{block}.{original}.kv", *here[1:])
    table.alias(
        f"{block}.norm3", f"{block}.norm2"
    )  # in Wan's own repository, the norm before the feed-forward is the second
    table.alias(f"{block}.ffn.0", f"{block}.ffn.net.0.proj")
    table.alias(f"{block}.ffn.2", f"{block}.ffn.net.2")
    table.alias(f"{block}.modulation", f"{block}.scale_shift_table")
