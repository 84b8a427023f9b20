"""Names for the work of a call that hold in any process: equal names, equal work for calls of one kind.

A name has the shapes of tensors, not their numbers, and the layout of a model, not its weights.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import fields, is_dataclass
from functools import cache
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ...graph.contract.node import Here, State
from ..models.model import Model
from .value_tensors import DEPTH, PLAIN

PACKAGES = ("sgd", "torch", "diffusers", "transformers")


class NoName(ValueError):
    """A value has no name that holds in other processes."""


def name_of(node_type: str, arguments: Mapping[str, Any], more: object) -> str | None:
    """The name of a call of a node of this library, in hexadecimal; None if an argument has none.

    Args:
        node_type: The node's type.
        arguments: The arguments of the call.
        more: What else changes the work; its `repr` must hold in other processes.
    """
    try:
        text = _text(dict(arguments), DEPTH)
    except (NoName, AttributeError, OSError):
        return None
    return sha256(repr((_code(), node_type, more, text)).encode("utf-8", "surrogatepass")).hexdigest()


def _text(value: Any, depth: int) -> str:
    kind = type(value)
    if depth == 0:
        raise NoName
    if kind in PLAIN:
        return repr(value)
    if isinstance(value, State | Here):
        return kind.__name__  # a loop begins with a new state; the kind of the call has the decisions of gates
    if isinstance(value, Model):
        return _model(value, depth - 1)
    if isinstance(value, Mapping):
        return repr(sorted((_text(key, depth - 1), _text(entry, depth - 1)) for key, entry in value.items()))
    if isinstance(value, list | tuple):
        return repr([_text(entry, depth - 1) for entry in value])
    if is_dataclass(value):
        parts = [(each.name, _text(getattr(value, each.name), depth - 1)) for each in fields(value)]
        return repr((kind.__qualname__, parts))
    if kind.__module__.partition(".")[0] == "torch":
        shape = getattr(value, "shape", None)
        if shape is not None:
            return repr((tuple(shape), str(value.dtype)))
        if kind.__name__ in ("dtype", "device"):
            return str(value)
    raise NoName(kind.__name__)


def _model(model: Model, depth: int) -> str:
    """The layout of a model: the configurations of its components, their dtypes, and its transforms."""
    parts = sorted(model.parts())
    layout = [(part, _text(model.config(part), depth), str(model.dtype(part))) for part in parts]
    names, transforms = dict(model.names), [_text(each, depth) for each in model.transforms]
    return repr((layout, sorted(names.items()), transforms, model.weights.kind))


@cache
def _code() -> tuple[Any, ...]:
    """Versions of what computes, and the date of the newest module of this library, which may be under work."""
    found = []
    for package in PACKAGES:
        with suppress(PackageNotFoundError):
            # A loaded package knows its version; its metadata takes milliseconds to read.
            known = getattr(sys.modules.get(package), "__version__", None)
            found.append((package, str(known or version(package))))
    return (*found, _newest(Path(__file__).resolve().parents[1]))


def _newest(folder: Path | str) -> int:
    """The date of the newest module in a folder, in nanoseconds; `os.walk` takes three times as long."""
    newest = 0
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.endswith(".py"):
                newest = max(newest, entry.stat().st_mtime_ns)
            elif "." not in entry.name and entry.name != "__pycache__" and entry.is_dir():
                newest = max(newest, _newest(entry.path))
    return newest
