"""The arguments of a forward, taken apart: tensors, which a graph reads at fixed addresses, and all else."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten


@dataclass(frozen=True)
class Inputs:
    """The arguments of a forward, taken apart.

    Attributes:
        tensors: The tensors among them.
        places: The place of each tensor among all arguments.
        rest: The other arguments, with None in place of tensors.
        form: How the arguments stand in lists and mappings.
    """

    tensors: Sequence[torch.Tensor]
    places: tuple[int, ...]
    rest: Sequence[Any]
    form: TreeSpec

    @classmethod
    def of(cls, args: Any, kwargs: Any) -> Inputs:
        leaves, form = tree_flatten((args, kwargs))
        places = tuple(number for number, leaf in enumerate(leaves) if isinstance(leaf, torch.Tensor))
        rest = [None if number in places else leaf for number, leaf in enumerate(leaves)]
        return cls([leaves[place] for place in places], places, rest, form)

    def key(self) -> Hashable:
        """Everything but the numbers in tensors. Inputs with equal keys launch the same kernels."""
        shapes = tuple((tuple(tensor.shape), tensor.dtype, tensor.device) for tensor in self.tensors)
        return repr(self.form), self.places, repr(self.rest), shapes

    @property
    def device(self) -> torch.device:
        """The device of the first tensor."""
        return self.tensors[0].device

    @property
    def on_one_device(self) -> bool:
        """Whether all tensors are on one device: an argument on the host cannot be part of a graph."""
        return len({tensor.device for tensor in self.tensors}) == 1

    def copied(self) -> Inputs:
        """Equal inputs whose tensors lie elsewhere."""
        return replace(self, tensors=[tensor.clone() for tensor in self.tensors])

    def take(self, other: Inputs) -> None:
        """Copy the tensors of others into these."""
        for own, given in zip(self.tensors, other.tensors, strict=True):
            own.copy_(given)

    def passed_to(self, call: Any) -> Any:
        """Call a function with these arguments."""
        leaves = list(self.rest)
        for place, tensor in zip(self.places, self.tensors, strict=True):
            leaves[place] = tensor
        args, kwargs = tree_unflatten(leaves, self.form)
        return call(*args, **kwargs)
