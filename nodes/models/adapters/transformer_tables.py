"""The table of layers of a transformer, from its class and its configuration. Torch-free."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from .flux_layers import flux
from .hunyuan_layers import hunyuan_video
from .layer_table import LayerTable
from .qwen_layers import qwen_image
from .wan_layers import wan
from .z_image_layers import z_image

TABLES: Mapping[str, Callable[[Mapping[str, Any]], LayerTable]] = {
    "FluxTransformer2DModel": flux,
    "HunyuanVideoTransformer3DModel": hunyuan_video,
    "QwenImageTransformer2DModel": qwen_image,
    "WanTransformer3DModel": wan,
    "ZImageTransformer2DModel": z_image,
}

MOST_BLOCKS = 1000
"""Largest number of blocks of one kind. A configuration with more blocks is damaged and gets no table."""


def of_config(class_name: str, config: Mapping[str, Any]) -> LayerTable | None:
    """Make the table of a transformer; None if its class is not known or its configuration is not valid."""
    try:
        return _made(class_name, json.dumps({k: v for k, v in config.items() if not k.startswith("_")}, default=list))
    except (TypeError, ValueError, ArithmeticError, KeyError, IndexError):
        return None  # loading the component reports the reason


@lru_cache(maxsize=8)
def _made(class_name: str, config: str) -> LayerTable | None:
    known = json.loads(config)
    if class_name not in TABLES or any("layers" in k and v > MOST_BLOCKS for k, v in known.items()):
        return None
    return TABLES[class_name](known)
