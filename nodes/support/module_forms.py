"""Modules that do equal work with equal arguments: of equal classes, weights of equal shapes, equal settings.

Only modules of torch, diffusers and transformers have a form, and only if everything is known that their `forward` may
look at. A module with hooks, with a `forward` of its own, or with tensors that it keeps between calls has none.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any
from weakref import WeakKeyDictionary

import torch

LIBRARIES = ("torch.", "diffusers.", "transformers.")
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
OF_TORCH = frozenset(vars(torch.nn.Module()))
"""Names of attributes that every module has. Those with tensors, modules and hooks are looked at by themselves."""
WITHOUT_MEANING = frozenset(("layer_idx", "gradient_checkpointing", "_gradient_checkpointing_func"))
"""Names of further settings that change no work. Models are not trained here."""
CONFIG = "_internal_dict"
"""The configuration of a model of diffusers."""
PLAIN = (int, float, bool, str, type(None), torch.dtype, torch.device, torch.Size)
FUNCTIONS = (FunctionType, BuiltinFunctionType, type)
DEPTH = 3
"""How deep the objects are looked at that a module holds."""


class Unknown(TypeError):
    """Something may change the work of a module in a way that is not seen."""


class ModuleForms:
    """Forms of modules; each module is looked at once, and again if its parts have changed."""

    def __init__(self) -> None:
        self._forms: WeakKeyDictionary[torch.nn.Module, tuple[list[int], str | None]] = WeakKeyDictionary()

    def of(self, module: torch.nn.Module) -> str | None:
        """A name that equal modules share, in other processes too; None if it is not known what decides the work."""
        try:
            now = _parts(module)
        except Unknown:
            return None
        earlier = self._forms.get(module)
        if earlier is not None and earlier[0] == now:
            return earlier[1]
        try:
            found = self._form(module)
        except Unknown:
            found = None
        self._forms[module] = now, found
        return found

    def _form(self, module: torch.nn.Module) -> str:
        kind, own = type(module), vars(module)
        if not kind.__module__.startswith(LIBRARIES) or "forward" in own or any(map(own.get, HOOKS)):
            raise Unknown
        tensors: list[Any] = []
        for name in ("_parameters", "_buffers"):
            for key, value in own[name].items():
                if value is not None and type(value) not in (torch.Tensor, torch.nn.Parameter):
                    raise Unknown
                tensors.append((key, None if value is None else (value.shape, value.dtype, value.device)))
        children: list[tuple[str, str]] = []
        for name, child in own["_modules"].items():
            form = self.of(child) if child is not None else "none"
            if form is None:
                raise Unknown
            children.append((name, form))
        settings = [
            (name, _setting(_named(value) if name == CONFIG else value, DEPTH))
            for name, value in own.items()
            if name not in OF_TORCH and name not in WITHOUT_MEANING
        ]
        text = repr((kind.__module__, kind.__qualname__, tensors, children, settings))
        return hashlib.sha256(text.encode()).hexdigest()[:32]


def _parts(module: torch.nn.Module) -> list[int]:
    """What may change between calls: hooks, methods and parts in place of others, also in its modules.

    Raises:
        Unknown: If a module is a part of itself, as a stand-in that holds the module around it.
    """
    found: list[int] = []
    around = {id(module)}

    def add(own: Mapping[str, Any]) -> None:
        if own["_forward_hooks"] or own["_forward_pre_hooks"] or own["_backward_hooks"] or own["_backward_pre_hooks"]:
            found.append(-1)
        if "forward" in own:
            found.append(id(own["forward"]))
        if "processor" in own:  # of diffusers' attention
            found.append(id(own["processor"]))
        for child in own["_modules"].values():
            found.append(id(child))
            if child is None:
                continue
            if id(child) in around:
                raise Unknown
            around.add(id(child))
            add(vars(child))
            around.remove(id(child))

    add(vars(module))
    return found


def _named(config: Any) -> dict[str, Any]:
    """The settings of a configuration, without those about the configuration itself."""
    return {key: value for key, value in config.items() if key[0] != "_"}


def _setting(value: Any, depth: int) -> Any:
    """What decides the work in an attribute of a module."""
    if isinstance(value, PLAIN):
        return value
    if isinstance(value, FUNCTIONS):
        return value.__module__, value.__qualname__
    if depth == 0 or isinstance(value, torch.Tensor | torch.nn.Module | MethodType):
        raise Unknown
    if isinstance(value, set | frozenset):  # their order is another one in each process
        return sorted(repr(_setting(each, depth - 1)) for each in value)
    if isinstance(value, list | tuple):
        return [_setting(each, depth - 1) for each in value]
    if isinstance(value, dict):
        return [(str(key), _setting(each, depth - 1)) for key, each in value.items()]
    kind = type(value)
    if not kind.__module__.startswith(LIBRARIES) or not hasattr(value, "__dict__"):
        raise Unknown
    inner = [(name, _setting(each, depth - 1)) for name, each in vars(value).items()]
    return kind.__module__, kind.__qualname__, inner
