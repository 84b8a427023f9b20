"""Values with their tensors in another place, such as another GPU."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any

from ...graph.contract.ports import Port
from .value_tensors import DEPTH, PLAIN

if TYPE_CHECKING:
    import torch


class Move:
    """Makes a value from another one, with a function for tensors and one for holders: values whose parts are acquired.

    A value in which nothing is replaced stays the same object. Others are copies, down to what was replaced.

    Args:
        tensor: Gives the tensor in place of a tensor.
        holder: Gives the value in place of a holder (`Port`).
    """

    def __init__(self, tensor: Callable[[torch.Tensor], torch.Tensor], holder: Callable[[Any], Any]) -> None:
        self.tensor, self.holder = tensor, holder

    def __call__(self, value: Any) -> Any:
        return self._moved(value, {}, DEPTH)

    def _moved(self, value: Any, known: dict[int, Any], depth: int) -> Any:
        """`known`: tensors and holders that were met before, so that those that were one object are one again."""
        kind = type(value)
        if kind in PLAIN or depth == 0 or "torch" not in sys.modules:
            return value
        if isinstance(value, sys.modules["torch"].Tensor) or hasattr(kind, "acquire"):
            if id(value) not in known:
                known[id(value)] = self.holder(value) if hasattr(kind, "acquire") else self.tensor(value)
            return known[id(value)]
        if isinstance(value, Port) or is_dataclass(value):
            return self._fields(value, known, depth - 1)
        if isinstance(value, Mapping):
            entries = {name: self._moved(entry, known, depth - 1) for name, entry in value.items()}
            return value if all(entries[name] is entry for name, entry in value.items()) else entries
        if isinstance(value, list | tuple):
            found = [self._moved(entry, known, depth - 1) for entry in value]
            if all(new is old for new, old in zip(found, value, strict=True)):
                return value
            return kind(*found) if hasattr(kind, "_fields") else kind(found)
        return value

    def _fields(self, value: Any, known: dict[int, Any], depth: int) -> Any:
        """A value of a port or a dataclass. The copy leaves out cached values that were computed of the fields."""
        own = [each.name for each in fields(value)] if is_dataclass(value) else list(vars(value))
        before = {name: getattr(value, name) for name in own if hasattr(value, name)}
        after = {name: self._moved(entry, known, depth) for name, entry in before.items()}
        if all(after[name] is entry for name, entry in before.items()):
            return value
        made = copy.copy(value)
        for name in set(getattr(made, "__dict__", ())) - set(own):
            del made.__dict__[name]
        for name, entry in after.items():
            object.__setattr__(made, name, entry)
        return made
