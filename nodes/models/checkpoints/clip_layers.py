"""Layers of CLIP's text encoder (`CLIPTextModel`). Torch-free."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..adapters.layer_table import LayerTable, TableBuilder


def clip_text(config: Mapping[str, Any]) -> LayerTable:
    table = TableBuilder()
    width, inner = config.get("hidden_size", 512), config.get("intermediate_size", 2048)
    table.layer("embeddings.token_embedding", config.get("vocab_size", 49408), width, bias=False)
    table.layer("embeddings.position_embedding", config.get("max_position_embeddings", 77), width, bias=False)
    for index in range(config.get("num_hidden_layers", 12)):
        block = f"encoder.layers.{index}"
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            table.layer(f"{block}.self_attn.{name}", width, width)
        table.layer(f"{block}.mlp.fc1", inner, width)
        table.layer(f"{block}.mlp.fc2", width, inner)
        for name in ("layer_norm1", "layer_norm2"):
            table.layer(f"{block}.{name}", width)
    table.layer("final_layer_norm", width)
    return table.build()
