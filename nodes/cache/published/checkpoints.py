"""Identify a model's checkpoint by its configurations and its name, to find the published numbers for it.

Published coefficients and ratios belong to the weights that they were measured on. Configurations show the
architecture. The name decides only between checkpoints with equal configurations.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import log
from typing import Any, Protocol, TypeVar

Configs = Mapping[str, Mapping[str, Any]]

# Names of other weights with the same architecture: distilled to few steps, tuned for another purpose, or a later
# release. Numbers measured on the original weights do not fit them.
OTHERS = re.compile(
    r"distill|turbo|lightning|hyper|lcm|dmd|lightx2v|causvid|fast|forcing|accvid|krea|kontext|fill|canny|depth|redux"
    r"|2512|2509|2511|edit|layered|flf2v|vace|fun[-_]",
    re.IGNORECASE,
)
# Wan's transformers by layers, heads, feed-forward width, channels of the input, and width of the image embedding.
WAN = {
    (30, 12, 8960, 16, None): ("Wan2.1-T2V-1.3B",),
    (40, 40, 13824, 16, None): ("Wan2.1-T2V-14B",),
    (40, 40, 13824, 36, 1280): ("Wan2.1-I2V-14B-480P", "Wan2.1-I2V-14B-720P"),
    (30, 24, 14336, 48, None): ("Wan2.2-TI2V-5B",),
}
EXPERTS = {  # the same numbers, for both transformers
    (40, 40, 13824, 16, None): ("Wan2.2-T2V-A14B",),
    (40, 40, 13824, 36, None): ("Wan2.2-I2V-A14B",),
}
# For the other families: the family, the pipeline's class, and the transformer's configuration. A missing key counts as
# False.
_FLUX = {"num_layers": 19, "num_single_layers": 38, "num_attention_heads": 24, "in_channels": 64}
REST: dict[str, tuple[str, str, dict[str, Any]]] = {
    "HunyuanVideo": (
        "hunyuan-video",
        "HunyuanVideoPipeline",
        {
            "num_layers": 20,
            "num_single_layers": 40,
            "num_attention_heads": 24,
            "in_channels": 16,
            "guidance_embeds": True,
            "image_condition_type": None,
        },
    ),
    "FLUX.1-dev": ("flux", "FluxPipeline", {**_FLUX, "guidance_embeds": True}),
    "FLUX.1-schnell": ("flux", "FluxPipeline", {**_FLUX, "guidance_embeds": False}),
    "Qwen-Image": (
        "qwen-image",
        "QwenImagePipeline",
        {
            "num_layers": 60,
            "num_attention_heads": 24,
            "in_channels": 64,
            "guidance_embeds": False,
            "zero_cond_t": False,
        },
    ),
}


def checkpoints(family: str, configs: Configs, source: str | None = None) -> tuple[str, ...]:
    """Find the published checkpoints that a model may be, without torch and without weights.

    Args:
        family: Name of the family: "wan", "hunyuan-video", "flux", "qwen-image"; others have none.
        configs: The model's configurations: those of components by name, and "model_index".
        source: Folder or repository of the model. Only its last part is read. The name distinguishes Wan 2.1's models
            for 480P and 720P, whose configurations are equal, and excludes other weights with the same architecture.

    Returns:
        Labels of the checkpoints: an empty tuple if the model is none of these, several if sgd cannot distinguish them.
    """
    name = re.split(r"[/\\]", source.rstrip("/\\"))[-1] if source else ""
    if OTHERS.search(name):
        return ()
    if family == "wan":
        return _wan(configs, name)
    pipeline, transformer = configs.get("model_index", {}).get("_class_name"), configs.get("transformer", {})
    return tuple(
        label
        for label, (owner, expected, values) in REST.items()
        if (owner, expected) == (family, pipeline)
        and all((transformer.get(key) or None) == (value or None) for key, value in values.items())
    )


def _wan(configs: Configs, name: str) -> tuple[str, ...]:
    index = configs.get("model_index", {})
    first, second = (_size(configs.get(part, {})) for part in ("transformer", "transformer_2"))
    if "transformer_2" in configs or _present(index.get("transformer_2")):
        return EXPERTS.get(first, ()) if first == second else ()
    found = WAN.get(first, ())
    # A single expert of a two-expert model, or a model for a first and a last frame, is none of these checkpoints.
    if index.get("boundary_ratio") is not None or "pos_embed_seq_len" in _given(configs):
        return ()
    if bool(index.get("expand_timesteps")) != (found == ("Wan2.2-TI2V-5B",)):
        return ()
    told = tuple(label for label in found if label.rsplit("-", 1)[-1].lower() in name.lower())
    return told if len(told) == 1 else found


def _given(configs: Configs) -> set[str]:
    return {key for key, value in configs.get("transformer", {}).items() if value is not None}


def _size(transformer: Mapping[str, Any]) -> tuple[Any, ...]:
    keys = ("num_layers", "num_attention_heads", "ffn_dim", "in_channels", "image_dim")
    return tuple(transformer.get(key) for key in keys)


class Sized(Protocol):
    """A published entry that was measured at one image size, or that holds for every size (`pixels` is None)."""

    @property
    def pixels(self) -> int | None: ...


S = TypeVar("S", bound=Sized)


def by_size(entries: tuple[S, ...], width: int, height: int) -> tuple[S, ...]:
    """The entries measured at the size nearest to `width` x `height`, by the ratio of the areas.

    Entries that hold for every size stay.
    """
    sizes = {entry.pixels for entry in entries if entry.pixels is not None}
    if not sizes:
        return entries
    nearest = min(sorted(sizes), key=lambda pixels: abs(log(pixels / (width * height))))
    return tuple(entry for entry in entries if entry.pixels in (None, nearest))


def _present(component: Any) -> bool:
    return component not in (None, [None, None], (None, None))
