"""Weights of tiny transformers with adapters, and their comparison with weights that are merged by hand."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from sgd.nodes.models.memory.component_views import view
from sgd.nodes.models.transforms.lora_transform import Lora

from helpers.direct import DirectRun
from helpers.lora_layouts import transformer

NEAR = 3e-5
"""The largest difference over the largest value."""


@cache
def module_of(family: str) -> Any:
    return transformer(family)


@cache
def view_of(family: str) -> Any:
    return view(module_of(family))


def merged(family: str, *loras: Lora) -> dict[str, torch.Tensor]:
    """The parameters of a view of a tiny transformer with LoRAs."""
    made, plain = view_of(family), dict(module_of(family).named_parameters())
    try:
        loras[0].apply_with(loras[1:], made, DirectRun())
        return dict(made.state_dict())
    finally:  # one view does for all tests: to make one takes longer than all else
        for path, owner in made.named_modules():
            for name in owner._parameters:
                if owner._parameters[name] is not None:
                    owner._parameters[name] = plain[f"{path}.{name}" if path else name]


def saved(folder: Path, tensors: dict[str, torch.Tensor], name: str = "a", **metadata: str) -> Path:
    path = folder / f"{name}.safetensors"
    save_file(tensors, path, metadata or None)
    return path


def compare(made: dict[str, torch.Tensor], family: str, expected: dict[str, torch.Tensor]) -> None:
    """Merged parameters are as expected, all others those of the model itself."""
    plain = module_of(family).state_dict()
    assert made.keys() == plain.keys()
    for key, tensor in made.items():
        if key not in expected:
            assert tensor.data_ptr() == plain[key].data_ptr(), key
            continue
        assert tensor.dtype == plain[key].dtype
        assert tensor.shape == plain[key].shape
        largest = expected[key].abs().max()
        assert (tensor - expected[key]).abs().max() <= NEAR * largest, key
        assert (plain[key] - expected[key]).abs().max() > NEAR * largest, key
