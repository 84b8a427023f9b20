"""The parameters of a component and their names in files, from its class and its configuration. Torch-free."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from ..adapters import transformer_tables
from ..adapters.layer_table import LayerTable
from . import clip_layers, kl_vae_layers, language_model_layers, t5_layers, wan_vae_layers

TABLES: Mapping[str, Callable[[Mapping[str, Any]], LayerTable]] = {
    **transformer_tables.TABLES,
    "AutoencoderKL": kl_vae_layers.kl_vae,
    "AutoencoderKLHunyuanVideo": kl_vae_layers.hunyuan_vae,
    "AutoencoderKLQwenImage": wan_vae_layers.wan_vae,
    "AutoencoderKLWan": wan_vae_layers.wan_vae,
    "CLIPTextModel": clip_layers.clip_text,
    "LlamaModel": language_model_layers.llama,
    "Qwen2_5_VLForConditionalGeneration": language_model_layers.qwen_vl,
    "Qwen3Model": language_model_layers.qwen3,
    "T5EncoderModel": t5_layers.t5,
    "UMT5EncoderModel": t5_layers.umt5,
}

UNUSED: Mapping[str, tuple[str, ...]] = {
    "CLIPTextModel": ("text_projection.weight", "logit_scale", "embeddings.position_ids"),
    "LlamaModel": ("lm_head.weight", "output.weight", "rope_freqs.weight", "rotary_emb.inv_freq"),
    "Qwen3Model": ("lm_head.weight", "output.weight", "rotary_emb.inv_freq"),
    "T5EncoderModel": ("spiece_model", "lm_head.weight"),
    "UMT5EncoderModel": ("spiece_model", "lm_head.weight"),
    "ZImageTransformer2DModel": ("norm_final.weight",),
}
"""Ends of names of tensors that files have beside the parameters of a class, and that its computation does not use.

Language models have their last layer and their rotations; ComfyUI adds the tokenizer (`spiece_model`). diffusers drops
`norm_final` of Z-Image too, which the original makes and never calls.
"""

NEEDLESS: Mapping[str, tuple[str, ...]] = {
    "Qwen2_5_VLForConditionalGeneration": ("lm_head.", "model.visual."),
}
"""Starts of names of parameters on which no conditioning depends: a file may lack them, and they are zero then."""

MOST_BLOCKS = 1000
"""A configuration that asks for more blocks of a kind is damaged; no table is made of it."""

COUNTS = ("layers", "depth", "num_res_blocks", "layers_per_block")


@dataclass(frozen=True)
class ComponentLayout:
    """The parameters of one component, and how files differ from them.

    Attributes:
        class_name: Its class.
        table: Its parameters, and the names that lead to them.
        tied: Parameters that share the tensor of another, by name.
        heads: Heads of layers whose rows a file of llama.cpp has in another order, by flat name in the file.
    """

    class_name: str
    table: LayerTable
    tied: Mapping[str, str] = field(default_factory=dict)
    heads: Mapping[str, int] = field(default_factory=dict)

    def is_unused(self, name: str) -> bool:
        """Whether the class does not use a tensor that files have beside its parameters."""
        return any(name == end or name.endswith(f".{end}") for end in UNUSED.get(self.class_name, ()))

    def is_needless(self, parameter: str) -> bool:
        """Whether no conditioning depends on a parameter."""
        return parameter.startswith(NEEDLESS.get(self.class_name, ()) or ("\0",))


def of_config(class_name: str, config: Mapping[str, Any]) -> ComponentLayout | None:
    """The layout of a component; None if its class is not known or its configuration makes no sense."""
    try:
        return _made(class_name, json.dumps({k: v for k, v in config.items() if not k.startswith("_")}, default=list))
    except (TypeError, ValueError, ArithmeticError, KeyError, IndexError, AttributeError):
        return None  # loading the component reports the reason


@lru_cache(maxsize=8)
def _made(class_name: str, config: str) -> ComponentLayout | None:
    known = json.loads(config)
    if class_name not in TABLES or not _sensible(known):
        return None
    tied: dict[str, str] = {}
    if class_name in ("T5EncoderModel", "UMT5EncoderModel"):
        tied = t5_layers.TIED
    text = known.get("text_config") or {}
    if class_name.startswith("Qwen2_5_VL") and (known.get("tie_word_embeddings") or text.get("tie_word_embeddings")):
        tied = {"lm_head.weight": "model.language_model.embed_tokens.weight"}
    heads = language_model_layers.llama_heads(known) if class_name == "LlamaModel" else {}
    table = TABLES[class_name](known)
    if not all(type(size) is int and size > 0 for shape in table.shapes.values() for size in shape):
        return None
    return ComponentLayout(class_name, table, tied, heads)


def _sensible(config: Mapping[str, Any]) -> bool:
    parts = (config, *(part for part in config.values() if isinstance(part, dict)))
    numbers = [(key, value) for part in parts for key, value in part.items() if isinstance(value, int | float)]
    return not any(value > MOST_BLOCKS for key, value in numbers if any(word in key for word in COUNTS))
