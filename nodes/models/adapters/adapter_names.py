"""Parse the names of tensors in adapter files: the layer of a tensor, and its part in the adapter. Torch-free.

A name is a prefix, a layer and a part: `diffusion_model.` `blocks.0.self_attn.q` `.lora_down.weight`. Trainers differ
in all three.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from .layer_table import LayerTable, Pieces

PREFIXES = (
    "diffusion_model.",
    "model.",
    "transformer.",
    "transformer_2.",
    "base_model.model.",
    "base_model.",
    "unet.",
    "dit.",
    "pipe.",
    "net.",
    "module.",
    "_orig_mod.",
    "lora_unet_",
    "lora_transformer_",
    "lora_dit_",
    "lora_unet.",
    "lycoris_",
    "Hunyuan_video_I2V_lora_",
    "_",
)
"""Beginnings of names, before the layer of the transformer; several may follow each other.

`lora_unet__` is written by VideoX-Fun, `Hunyuan_video_I2V_lora_` by HunyuanVideo-I2V's own trainer.
"""

ENCODERS = re.compile(r"(lora|lycoris)_te|text_encoder|te\d?[._]|clip|t5|text_model|cond_stage_model|conditioner")
"""Prefixes of the names of a text encoder's tensors."""

SPELLINGS = {
    "down": "lora_down",
    "up": "lora_up",
    "mid": "lora_mid",
    "A": "lora_down",
    "B": "lora_up",
    "w_norm": "diff",
    "b_norm": "diff_b",
    "lora_alpha": "alpha",
}
"""Maps other names of a part to the name that this package uses."""

LONGEST = 1000
"""Largest number of characters of a name that is parsed. No layer has a longer name."""

ADAPTER = r"(?:\.(?!(?:weight|bias)$)[A-Za-z_][^.]*)?"
"""The name of the adapter, which peft writes in the middle of a tensor's name: `.default`."""

PARTS = tuple(
    re.compile(rf"^(?P<stem>.*?){pattern}$")
    for pattern in (
        rf"\.lora_(?P<part>A|B|down|up|mid){ADAPTER}(?:\.(?P<of>weight|bias))?",
        r"(?:\.lora|\.lora_linear_layer)\.(?P<part>down|up|mid)\.(?P<of>weight|bias)",
        r"_lora(?P<number>\d?)\.(?P<part>down|up)\.(?P<of>weight|bias)",
        rf"\.(?P<part>lora_magnitude_vector){ADAPTER}(?:\.weight)?",
        rf"\.(?P<part>hada_w[12]_[ab]|hada_t[12]|lokr_w[12](?:_[ab])?|lokr_t2){ADAPTER}(?:\.weight)?",
        r"\.(?P<part>dora_scale|diff|diff_b|diff_m|w_norm|b_norm)",
        rf"\.(?P<part>alpha|lora_alpha){ADAPTER}",
    )
)


class TensorName(NamedTuple):
    """The name of a tensor, taken apart.

    Attributes:
        stem: The layer, as the file names it, with its prefix.
        part: The tensor's part: `lora_down`, `lora_up`, `lora_mid`, `lora_up_bias`, `dora_scale`,
            `lora_magnitude_vector`, `alpha`, `diff`, `diff_b`, `diff_m`, `hada_…`, `lokr_…`.
    """

    stem: str
    part: str


def parse(key: str) -> TensorName | None:
    """Parse the name of a tensor; None if the tensor is not a part of an adapter."""
    if len(key) > LONGEST:
        return None
    if key in ("alpha", "lora_alpha"):
        return TensorName("", "alpha")
    for pattern in PARTS:
        found = pattern.match(key)
        if found is None:
            continue
        groups = found.groupdict()
        part = SPELLINGS.get(groups["part"], groups["part"])
        if groups.get("of") == "bias":
            part += "_bias"
        return TensorName(found["stem"] + (groups.get("number") or ""), part)
    return None


def find(table: LayerTable, stem: str, part: str = "") -> Pieces | None:
    """Find the pieces of the model's layers for the name of a layer; None if the model has no such layer.

    Args:
        table: The model's layers.
        stem: The name, with or without prefixes.
        part: The tensor's part. `diff_m` belongs to the modulation table of the named block or head.
    """
    for name in without_prefixes(stem):
        for spelling in (name, name.replace(".processor.", ".")):
            pieces = table.find(spelling)
            if part == "diff_m":
                pieces = table.find(f"{spelling}.modulation") or pieces
            if pieces is not None:
                return pieces
    return None


def without_prefixes(name: str) -> list[str]:
    """The name, and the name without its first prefix, without its first two prefixes, and so on."""
    found = [name]
    while True:
        prefix = next((p for p in PREFIXES if found[-1].startswith(p)), None)
        if prefix is None:
            return found
        found.append(found[-1].removeprefix(prefix))


def owner(table: LayerTable, key: str) -> str | None:
    """Find the layer of this model to which a tensor with an unknown part belongs; None if there is none."""
    stem = key[:LONGEST]
    while True:
        pieces = find(table, stem)
        if pieces is not None:
            return pieces[0].layer
        if "." not in stem:
            return None
        stem = stem.rpartition(".")[0]


def of_encoder(key: str) -> bool:
    """Whether a tensor is for a text encoder."""
    return any(ENCODERS.match(name) for name in without_prefixes(key))
