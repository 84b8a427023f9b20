"""Watches group offloading on a CPU: which tensors would be on the device at each time.

On a CPU the hooks of diffusers move no tensor, and reading a tensor before its group is loaded raises no error.
`Watched` inspects every operation: a tensor that it reads must belong to a group that is loaded at that time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from diffusers.hooks.group_offloading import ModuleGroup
from torch.utils._python_dispatch import TorchDispatchMode


def owned(group: Any) -> dict[int, int]:
    """Bytes of a group's tensors, by the address of their storage."""
    found = [*group.parameters, *group.buffers]
    for module in group.modules:
        found += [*module.parameters(), *module.buffers()]
    return {t.untyped_storage().data_ptr(): t.numel() * t.element_size() for t in found}


def tensors_in(value: Any) -> Iterator[torch.Tensor]:
    """The tensors among the arguments of an operation, which are in lists and tuples if not by themselves."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for each in value:
            yield from tensors_in(each)


class Watched(TorchDispatchMode):
    """The loads and reads of one view's tensors while the mode is active.

    Attributes:
        most: The most bytes on the device at one time.
        onloads: Number of loads of each group.
        early: Names of tensors that an operation read while their group was not loaded.
        used: Names of tensors that operations read.
    """

    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__()
        tensors = (*module.named_parameters(), *module.named_buffers())
        self.names = {t.untyped_storage().data_ptr(): name for name, t in tensors if t.numel()}
        self.inside: Counter[int] = Counter()
        self.sizes: dict[int, int] = {}
        self.onloads: Counter[int] = Counter()
        self.most = 0
        self.early: set[str] = set()
        self.used: set[str] = set()
        self.moving = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        # A copy to a named device may read from the host.
        copied = func is torch.ops.aten._to_copy.default and (kwargs or {}).get("device") is not None
        if not self.moving and not copied:
            for tensor in tensors_in((args, tuple((kwargs or {}).values()))):
                address = tensor.untyped_storage().data_ptr()
                if address in self.names:
                    self.used.add(self.names[address])
                    if not self.inside[address]:
                        self.early.add(self.names[address])
        return func(*args, **(kwargs or {}))

    def moved(self, group: Any, inward: bool) -> None:
        addresses = owned(group)
        if not addresses.keys() <= self.names.keys() | {0}:
            return
        self.sizes |= addresses
        for address in addresses:
            self.inside[address] = max(self.inside[address] + (1 if inward else -1), 0)
        if inward:
            self.onloads[id(group)] += 1
        self.most = max(self.most, sum(self.sizes[a] for a, count in self.inside.items() if count))


@contextmanager
def watching(module: torch.nn.Module) -> Iterator[Watched]:
    """Watch the groups of a view with hooks."""
    watched = Watched(module)
    real = {name: getattr(ModuleGroup, name) for name in ("onload_", "offload_")}

    def around(name: str) -> Any:
        def moved(group: Any) -> None:
            watched.moving = True
            try:
                real[name](group)
                watched.moved(group, name == "onload_")
            finally:
                watched.moving = False

        return moved

    for name in real:
        setattr(ModuleGroup, name, around(name))
    try:
        with watched:
            yield watched
    finally:
        for name, method in real.items():
            setattr(ModuleGroup, name, method)
