"""Modules of a transformer whose result depends on the prompt or on sizes alone: each is computed once in a loop."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.nn import Module, ModuleList

from .block_parts import Once

KEPT: Mapping[str, tuple[str, ...]] = {
    "FluxTransformer2DModel": ("context_embedder", "pos_embed"),
    "HunyuanVideoTransformer3DModel": ("rope",),  # its text refiner takes the timestep too
    "QwenImageTransformer2DModel": ("txt_norm", "txt_in"),  # it keeps its rotary tables itself
    "WanTransformer3DModel": ("condition_embedder.text_embedder", "condition_embedder.image_embedder", "rope"),
    "ZImageTransformer2DModel": ("cap_embedder", "context_refiner"),
}
"""Names of these modules by the transformer's class."""


class KeptForward:
    """Replaces a module's forward: the result of the first call in a loop stands for the later ones.

    A module may be called several times in one forward; the number of the call is part of the key.
    """

    def __init__(self, inner: Callable[..., Any], once: Once) -> None:
        self.inner, self.once = inner, once

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        prompt = self.once.prompt
        if prompt is None:
            return self.inner(*args, **kwargs)
        given = tuple((tuple(t.shape), t.dtype) for t in (*args, *kwargs.values()) if isinstance(t, torch.Tensor))
        key = (self, self.once.number_of_call(self), given)
        return prompt.of(key, lambda: self.inner(*args, **kwargs))


def keep_modules(module: Module, once: Once) -> None:
    """Give the modules of `KEPT` a forward that keeps its result."""
    for name in KEPT.get(type(module).__name__, ()):
        path, _, last = name.rpartition(".")
        found = getattr(module.get_submodule(path), last, None)
        if found is None:  # a Wan model without CLIP
            continue
        for part in found if isinstance(found, ModuleList) else [found]:
            part.forward = KeptForward(part.forward, once)
