"""Rebuilds the blocks of a view. Lists the classes of blocks that can be rebuilt."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ..row_kernels import products
from .flux_blocks import FluxDouble, FluxSingle
from .hunyuan_blocks import HunyuanDouble, HunyuanSingle
from .qwen_blocks import QwenBlock
from .wan_blocks import WanBlock
from .z_image_blocks import ZImageBlock

BLOCKS: Mapping[str, Callable[[Any], Any]] = {
    "FluxTransformerBlock": FluxDouble,
    "FluxSingleTransformerBlock": FluxSingle,
    "HunyuanVideoTransformerBlock": HunyuanDouble,
    "HunyuanVideoSingleTransformerBlock": HunyuanSingle,
    "QwenImageTransformerBlock": QwenBlock,
    "WanTransformerBlock": WanBlock,
    "ZImageTransformerBlock": ZImageBlock,
}
"""The rebuilt forward of each class of blocks of diffusers."""


def rebuild(module: Any, *, join: bool) -> int:
    """Give the blocks of a view their rebuilt forward.

    Args:
        module: A view of a transformer.
        join: Whether to move weights with one input into one buffer (`products.join`).

    Returns:
        Number of rebuilt blocks; 0 if the view has no block that can be rebuilt. Blocks that differ from those of
        `BLOCKS`, for instance by quantised layers, keep their own forward.
    """
    count = 0
    for block in module.modules():
        make = BLOCKS.get(type(block).__name__)
        if make is None:
            continue
        made = make(block)
        if not made.fits():
            continue
        if join:
            for layers in made.joins():
                products.join(layers)
        block.forward = made
        count += 1
    return count
