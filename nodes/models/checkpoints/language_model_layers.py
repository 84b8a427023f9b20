"""Layers of the text encoders Llama, Qwen3 and Qwen2.5-VL, and their names in llama.cpp. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..adapters.layer_table import LayerTable, TableBuilder, flat

LLAMA_CPP = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
"""Layers of a block: their names here, and in files of llama.cpp."""


def llama(config: Mapping[str, Any]) -> LayerTable:
    """Layers of `LlamaModel`."""
    table = TableBuilder()
    bias, inner = config.get("attention_bias", False), config.get("mlp_bias", False)
    defaults = {"vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32}
    _decoder(table, "", {**defaults, **config}, head=None, bias=bias, out_bias=bias, inner_bias=inner, norms=False)
    return table.build()


def qwen3(config: Mapping[str, Any]) -> LayerTable:
    """Layers of `Qwen3Model`."""
    table, bias = TableBuilder(), config.get("attention_bias", False)
    defaults = {"vocab_size": 151936, "hidden_size": 4096, "intermediate_size": 22016, "num_hidden_layers": 32}
    defaults["num_key_value_heads"] = 32
    _decoder(table, "", {**defaults, **config}, head=128, bias=bias, out_bias=bias, inner_bias=False, norms=True)
    return table.build()


def qwen_vl(config: Mapping[str, Any]) -> LayerTable:
    """Layers of `Qwen2_5_VLForConditionalGeneration`.

    Older configurations hold the numbers of the language model at the top.
    """
    table = TableBuilder()
    text, vision = config.get("text_config") or config, config.get("vision_config") or {}
    defaults = {"vocab_size": 152064, "hidden_size": 8192, "intermediate_size": 29568, "num_hidden_layers": 80}
    known = {**defaults, "num_attention_heads": 64, "num_key_value_heads": 8, **text}
    here = "model.language_model."
    _decoder(table, here, known, head=None, bias=True, out_bias=False, inner_bias=False, norms=False)
    _vision(table, "model.visual", vision)
    table.layer("lm_head", known["vocab_size"], known["hidden_size"], bias=False)
    table.alias("output", "lm_head")
    for name in list(table.shapes):
        layer = name.removesuffix(".weight").removesuffix(".bias")
        # The names before transformers 4.52: `model` is the language model, `visual` stands beside it.
        table.alias(layer.replace("model.language_model.", "model.").replace("model.visual.", "visual."), layer)
    return table.build()


def llama_heads(config: Mapping[str, Any]) -> dict[str, int]:
    """Heads of the layers whose rows llama.cpp orders otherwise, by flat name in its files.

    llama.cpp pairs the numbers of a rotation side by side, transformers half a head apart. Only files of the
    architecture `llama` are written so.
    """
    heads = config.get("num_attention_heads", 32)
    keys = config.get("num_key_value_heads") or heads
    found: dict[str, int] = {}
    for index in range(config.get("num_hidden_layers", 32)):
        found |= {flat(f"blk.{index}.attn_q"): heads, flat(f"blk.{index}.attn_k"): keys}
    return found


def _decoder(
    table: TableBuilder,
    prefix: str,
    config: Mapping[str, Any],
    *,
    head: int | None,
    bias: bool,
    out_bias: bool,
    inner_bias: bool,
    norms: bool,
) -> None:
    width, inner = config["hidden_size"], config["intermediate_size"]
    heads = config.get("num_attention_heads", 32)
    keys = config.get("num_key_value_heads") or heads
    size = config.get("head_dim") or head or width // heads
    table.layer(f"{prefix}embed_tokens", config["vocab_size"], width, bias=False)
    table.alias("token_embd", f"{prefix}embed_tokens")
    for index in range(config["num_hidden_layers"]):
        block = f"{prefix}layers.{index}"
        for name, rows in (("q_proj", heads), ("k_proj", keys), ("v_proj", keys)):
            table.layer(f"{block}.self_attn.{name}", rows * size, width, bias=bias)
        table.layer(f"{block}.self_attn.o_proj", width, heads * size, bias=out_bias)
        if norms:
            table.norm(f"{block}.self_attn.q_norm", size)
            table.norm(f"{block}.self_attn.k_norm", size)
        for name, shape in (("gate_proj", (inner, width)), ("up_proj", (inner, width)), ("down_proj", (width, inner))):
            table.layer(f"{block}.mlp.{name}", *shape, bias=inner_bias)
        table.norm(f"{block}.input_layernorm", width)
        table.norm(f"{block}.post_attention_layernorm", width)
        for name, original in LLAMA_CPP.items():
            table.alias(f"blk.{index}.{original}", f"{block}.{name}")
    table.norm(f"{prefix}norm", width)
    table.alias("output_norm", f"{prefix}norm")


def _vision(table: TableBuilder, name: str, config: Mapping[str, Any]) -> None:
    """Add the encoder of images."""
    width, inner = config.get("hidden_size", 3584), config.get("intermediate_size", 3420)
    patch, frames = config.get("patch_size", 14), config.get("temporal_patch_size", 2)
    channels = config.get("in_channels", config.get("in_chans", 3))
    kernel = tuple(patch) if isinstance(patch, list | tuple) else (patch, patch)
    depth = frames[0] if isinstance(frames, list | tuple) else frames
    table.layer(f"{name}.patch_embed.proj", width, channels, depth, *kernel, bias=False)
    for index in range(config.get("depth", 32)):
        block = f"{name}.blocks.{index}"
        table.norm(f"{block}.norm1", width)
        table.norm(f"{block}.norm2", width)
        table.layer(f"{block}.attn.qkv", 3 * width, width)
        table.layer(f"{block}.attn.proj", width, width)
        for layer, shape in (("gate_proj", (inner, width)), ("up_proj", (inner, width)), ("down_proj", (width, inner))):
            table.layer(f"{block}.mlp.{layer}", *shape)
    merged = width * config.get("spatial_merge_size", 2) ** 2
    table.norm(f"{name}.merger.ln_q", width)
    table.layer(f"{name}.merger.mlp.0", merged, merged)
    table.layer(f"{name}.merger.mlp.2", config.get("out_hidden_size", 3584), merged)
