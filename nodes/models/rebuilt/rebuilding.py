"""Rebuilds the blocks of a view. Lists the classes of blocks that can be rebuilt."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ..memory.component_views import entrance
from ..row_kernels import products
from .block_parts import Once, RebuiltBlock
from .flux_blocks import FluxDouble, FluxSingle
from .hunyuan_blocks import HunyuanDouble, HunyuanSingle
from .kept_modules import keep_modules
from .qwen_blocks import QwenBlock
from .timed_modules import keep_tables
from .wan_blocks import WanBlock, few_timesteps
from .z_image_blocks import ZImageBlock

BLOCKS: Mapping[str, Callable[[Any, Once], RebuiltBlock]] = {
    "FluxTransformerBlock": FluxDouble,
    "FluxSingleTransformerBlock": FluxSingle,
    "HunyuanVideoTransformerBlock": HunyuanDouble,
    "HunyuanVideoSingleTransformerBlock": HunyuanSingle,
    "QwenImageTransformerBlock": QwenBlock,
    "WanTransformerBlock": WanBlock,
    "ZImageTransformerBlock": ZImageBlock,
}
"""The rebuilt forward of each class of blocks of diffusers."""

AROUND: Mapping[str, Callable[..., Any]] = {"WanTransformer3DModel": few_timesteps}
"""Functions around the forward of a transformer with rebuilt blocks, by its class."""


def rebuild(module: Any, *, join: bool) -> int:
    """Give the blocks of a view their rebuilt forward.

    Args:
        module: A view of a transformer.
        join: Whether to move weights with one input into one buffer (`products.join`).

    Returns:
        Number of rebuilt blocks; 0 if the view has no block that can be rebuilt. Blocks that differ from those of
        `BLOCKS`, for instance by layers of another library, keep their own forward.
    """
    count, once = 0, Once()
    for block in module.modules():
        make = BLOCKS.get(type(block).__name__)
        if make is None:
            continue
        made = make(block, once)
        if not made.fits():
            continue
        if isinstance(made, WanBlock):
            made.leads = block is module.blocks[0]
        if join:
            for layers in made.joins():
                products.join(layers)
        block.forward = made
        once.modulation_bytes += made.modulation_bytes()
        count += 1
    if count:
        keep_modules(module, once)
        keep_tables(module, once)
        module.once = once  # for `loop_values.telling`
        around = AROUND.get(type(module).__name__)

        def clearing(call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            given = kwargs.get("hidden_states", kwargs.get("x", args[0] if args else None))
            once.rows = len(given) if given is not None else 0
            try:
                return call(*args, **kwargs) if around is None else around(once, call, *args, **kwargs)
            finally:
                once.clear()

        entrance(module).layers.append(clearing)
    return count
