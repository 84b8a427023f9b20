"""Layers of the text encoders T5 and UMT5, and their names in llama.cpp and in Wan's own repository. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..adapters.layer_table import LayerTable, TableBuilder

TIED = {"encoder.embed_tokens.weight": "shared.weight"}
"""The encoder's embedding is the shared one."""

LLAMA_CPP = {"q": "attn_q", "k": "attn_k", "v": "attn_v", "o": "attn_o", "relative_attention_bias": "attn_rel_b"}
LLAMA_CPP_GATED = {"wi_0": "ffn_gate", "wi_1": "ffn_up", "wo": "ffn_down", "wi": "ffn_up"}
"""Layers of a block: their names here, and in files of llama.cpp."""

WAN = {"q": "attn.q", "k": "attn.k", "v": "attn.v", "o": "attn.o", "relative_attention_bias": "pos_embedding.embedding"}
WAN_GATED = {"wi_0": "ffn.gate.0", "wi_1": "ffn.fc1", "wo": "ffn.fc2"}
"""Layers of a block: their names here, and in Wan's own `models_t5_umt5-xxl-enc`."""


def t5(config: Mapping[str, Any]) -> LayerTable:
    """Layers of `T5EncoderModel`: positions in the first block only."""
    return _encoder(config, 32128, 6, 8, 2048, "relu", every=False)


def umt5(config: Mapping[str, Any]) -> LayerTable:
    """Layers of `UMT5EncoderModel`: positions in every block."""
    return _encoder(config, 250112, 8, 6, 1024, "gated-gelu", every=True)


def _encoder(
    config: Mapping[str, Any], words: int, blocks: int, heads: int, inner: int, activation: str, *, every: bool
) -> LayerTable:
    table = TableBuilder()
    words, width = config.get("vocab_size", words), config.get("d_model", 512)
    heads, inner = config.get("num_heads", heads), config.get("d_ff", inner)
    projected = heads * config.get("d_kv", 64)
    gated = config.get("feed_forward_proj", activation).startswith("gated")
    table.layer("shared", words, width, bias=False)
    table.layer("encoder.embed_tokens", words, width, bias=False)
    for name in ("token_embd", "token_embedding"):
        table.alias(name, "shared")
    for index in range(config.get("num_layers", blocks)):
        block, cpp, wan = f"encoder.block.{index}", f"enc.blk.{index}", f"blocks.{index}"
        attention, forward = f"{block}.layer.0.SelfAttention", f"{block}.layer.1.DenseReluDense"
        for letter in "qkv":
            table.layer(f"{attention}.{letter}", projected, width, bias=False)
        table.layer(f"{attention}.o", width, projected, bias=False)
        if every or index == 0:
            buckets = config.get("relative_attention_num_buckets", 32)
            table.layer(f"{attention}.relative_attention_bias", buckets, heads, bias=False)
        for name in ("wi_0", "wi_1") if gated else ("wi",):
            table.layer(f"{forward}.{name}", inner, width, bias=False)
        table.layer(f"{forward}.wo", width, inner, bias=False)
        for layer, name, original in ((0, "attn_norm", "norm1"), (1, "ffn_norm", "norm2")):
            table.norm(f"{block}.layer.{layer}.layer_norm", width)
            table.alias(f"{cpp}.{name}", f"{block}.layer.{layer}.layer_norm")
            table.alias(f"{wan}.{original}", f"{block}.layer.{layer}.layer_norm")
        for names, before, here in (
            (LLAMA_CPP, cpp, attention),
            (LLAMA_CPP_GATED, cpp, forward),
            (WAN, wan, attention),
            (WAN_GATED, wan, forward),
        ):
            for name, original in names.items():
                table.alias(f"{before}.{original}", f"{here}.{name}")
    table.norm("encoder.final_layer_norm", width)
    for name in ("enc.output_norm", "norm"):
        table.alias(name, "encoder.final_layer_norm")
    return table.build()
