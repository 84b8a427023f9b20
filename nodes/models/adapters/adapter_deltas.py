"""The change that an adapter makes to a weight, in float32.

In this module a weight is a matrix: rows are output channels, and columns are all other dimensions.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from .adapter_forms import MAGNITUDES, by_input

Tensors = Mapping[str, torch.Tensor]
"""The tensors of one adapter by the name of their part, in float32."""


def delta(form: str, tensors: Tensors, weight: torch.Tensor) -> torch.Tensor:
    """Compute the change of a weight by one form of adapter, before any factor.

    Args:
        form: `lora`, `loha`, `lokr`, `diff` or `diff_m`.
        tensors: The parts of the adapter. Their shapes fit the weight.
        weight: The weight as a matrix, [out, rest].

    Returns:
        A matrix of the weight's shape.
    """
    if form in ("diff", "diff_m"):
        made = tensors[form]
    elif form == "lora":
        made = _lora(tensors)
    elif form == "loha":
        made = _loha_factor("1", tensors) * _loha_factor("2", tensors)
    else:
        # torch 2.11 takes only contiguous factors.
        first, second = (_lokr_factor(name, tensors).contiguous() for name in ("lokr_w1", "lokr_w2"))
        made = torch.kron(first, second)
    return made.reshape(weight.shape)


def decomposed(tensors: Tensors, weight: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    """Compute the weight of a DoRA: scale each direction of the weight to the magnitude in the adapter.

    Args:
        tensors: The parts of the adapter. Without magnitudes, the weight is returned unchanged.
        weight: The weight with all changes added, as a matrix [out, rest].
        shape: The weight's own shape, [out, in, …].
    """
    part = next((name for name in MAGNITUDES if name in tensors), None)
    if part is None:
        return weight
    magnitude = tensors[part]
    if by_input(part, tuple(magnitude.shape), shape):
        columns = weight.reshape(shape[0], shape[1], -1)
        norm = columns.square().sum(dim=(0, 2), keepdim=True).sqrt()  # [1, in, 1]
        return (columns * _ratio(magnitude.reshape(1, -1, 1), norm)).reshape(weight.shape)
    return weight * _ratio(magnitude.reshape(-1, 1), weight.norm(dim=1, keepdim=True))


def _ratio(magnitude: torch.Tensor, norm: torch.Tensor) -> torch.Tensor:
    """Magnitude over norm; 0 where the norm is 0, since zeros have no direction."""
    return torch.where(norm > 0, magnitude / norm, 0.0)


def _lora(tensors: Tensors) -> torch.Tensor:
    up, down, core = tensors["lora_up"], tensors["lora_down"], tensors.get("lora_mid")
    if core is None:
        return up.flatten(1) @ down.flatten(1)
    return _tucker(core, up.flatten(1).T, down.flatten(1))


def _loha_factor(number: str, tensors: Tensors) -> torch.Tensor:
    left, right, core = (tensors.get(f"hada_{name}") for name in (f"w{number}_a", f"w{number}_b", f"t{number}"))
    assert left is not None
    assert right is not None
    return left @ right.flatten(1) if core is None else _tucker(core, left, right)


def _lokr_factor(name: str, tensors: Tensors) -> torch.Tensor:
    if name in tensors:
        return tensors[name].flatten(1)
    left, right, core = tensors[f"{name}_a"], tensors[f"{name}_b"], tensors.get("lokr_t2")
    if core is None or name != "lokr_w2":
        return left @ right.flatten(1)
    return _tucker(core, left, right)


def _tucker(core: torch.Tensor, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """A core [r, s, …] between factors [r, out] and [s, in], as a matrix [out, in …]."""
    return torch.einsum("rs...,ro,si->oi...", core, left.flatten(1), right.flatten(1)).flatten(1)
