"""Layers of the Z-Image transformer (`ZImageTransformer2DModel`) and their names in its own repository. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .layer_table import LayerTable, TableBuilder

MODULATION = 256
"""`ADALN_EMBED_DIM` of diffusers' transformer_z_image.py, and the width of its sinusoidal embedding of a timestep."""

TIMESTEP = 1024
"""Width between the two layers of the timestep embedding, as in diffusers."""


def z_image(config: Mapping[str, Any]) -> LayerTable:
    table = TableBuilder()
    width, text, channels = config.get("dim", 3840), config.get("cap_feat_dim", 2560), config.get("in_channels", 16)
    image, modulation = config.get("siglip_feat_dim"), min(width, MODULATION)
    for patch, frames in zip(config.get("all_patch_size", (2,)), config.get("all_f_patch_size", (1,)), strict=True):
        name, size = f"{patch}-{frames}", frames * patch * patch * channels
        table.layer(f"all_x_embedder.{name}", width, size)
        table.layer(f"all_final_layer.{name}.linear", size, width)
        table.layer(f"all_final_layer.{name}.adaLN_modulation.1", width, modulation)
        # Z-Image's own repository has one patch size, and its names do not contain the size.
        table.alias("x_embedder", f"all_x_embedder.{name}")
        table.alias("final_layer.linear", f"all_final_layer.{name}.linear")
        table.alias("final_layer.adaLN_modulation.1", f"all_final_layer.{name}.adaLN_modulation.1")
    refiners = ["noise_refiner", "context_refiner", *(["siglip_refiner"] if image is not None else [])]
    for refiner in refiners:
        for index in range(config.get("n_refiner_layers", 2)):
            _block(table, f"{refiner}.{index}", width, config, modulated=refiner == "noise_refiner")
    table.layer("t_embedder.mlp.0", TIMESTEP, MODULATION)
    table.layer("t_embedder.mlp.2", modulation, TIMESTEP)
    table.norm("cap_embedder.0", text)
    table.layer("cap_embedder.1", width, text)
    if image is not None:
        table.norm("siglip_embedder.0", image)
        table.layer("siglip_embedder.1", width, image)
        table.parameter("siglip_pad_token", 1, width)
    table.parameter("x_pad_token", 1, width)
    table.parameter("cap_pad_token", 1, width)
    for index in range(config.get("n_layers", 30)):
        _block(table, f"layers.{index}", width, config, modulated=True)
    return table.build()


def _block(table: TableBuilder, block: str, width: int, config: Mapping[str, Any], *, modulated: bool) -> None:
    layers, inner = [f"{block}.attention.to_{letter}" for letter in "qkv"], int(width / 3 * 8)
    for layer in (*layers, f"{block}.attention.to_out.0"):
        table.layer(layer, width, width, bias=False)
    if config.get("qk_norm", True):
        for letter in "qk":
            table.norm(f"{block}.attention.norm_{letter}", width // config.get("n_heads", 30))
            table.alias(f"{block}.attention.{letter}_norm", f"{block}.attention.norm_{letter}")
    for layer, shape in (("w1", (inner, width)), ("w2", (width, inner)), ("w3", (inner, width))):
        table.layer(f"{block}.feed_forward.{layer}", *shape, bias=False)
    for norm in ("attention_norm1", "ffn_norm1", "attention_norm2", "ffn_norm2"):
        table.norm(f"{block}.{norm}", width)
    if modulated:
        table.layer(f"{block}.adaLN_modulation.0", 4 * width, min(width, MODULATION))
    table.alias(f"{block}.attention.qkv", *layers)
    table.alias(f"{block}.attention.out", f"{block}.attention.to_out.0")
