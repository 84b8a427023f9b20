"""The tensors of a value, wherever they lie in it: in fields of dataclasses, in lists, tuples and mappings."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any

from ...graph.contract.ports import Port

if TYPE_CHECKING:
    import torch

PLAIN = frozenset((str, int, float, bool, type(None), bytes))
DEPTH = 8
ONLY_PLAIN = re.compile(r"(?:int|float|str|bool|None|tuple|list|\.\.\.|[\[\], |])+")
"""The annotation of a field without tensors, such as `tuple[float, ...]`."""
_NAMES: dict[type, tuple[str, ...]] = {}


def tensors_of(
    value: Any, path: str = "", holder: Any = None, depth: int = DEPTH
) -> Iterator[tuple[str, torch.Tensor, Any]]:
    """Each tensor of a value: its path, such as `positive.embeddings`, the tensor, and the list or mapping around it.

    The third entry is None for a tensor in a field. Values whose parts are loaded and dropped (`Port`, `acquire`) have
    no tensors.
    """
    kind = type(value)
    if kind in PLAIN or depth == 0 or "torch" not in sys.modules:
        return
    if isinstance(value, sys.modules["torch"].Tensor):
        yield path, value, holder
    elif isinstance(value, Mapping):
        for name, entry in value.items():
            if type(entry) not in PLAIN:
                yield from tensors_of(entry, f"{path}.{name}" if path else str(name), value, depth - 1)
    elif isinstance(value, list | tuple):
        for number, entry in enumerate(value):
            if type(entry) not in PLAIN:
                yield from tensors_of(entry, f"{path}[{number}]", value, depth - 1)
    elif isinstance(value, Port) or is_dataclass(value):
        if hasattr(value, "acquire"):
            return
        for name in _names(value):
            entry = getattr(value, name, None)
            if type(entry) not in PLAIN:
                yield from tensors_of(entry, f"{path}.{name}" if path else name, None, depth - 1)


def _names(value: Any) -> tuple[str, ...]:
    """The fields of a dataclass, or the attributes of another port."""
    kind = type(value)
    if not is_dataclass(value):
        return tuple(getattr(value, "__dict__", ()))
    if kind not in _NAMES:
        _NAMES[kind] = tuple(field.name for field in fields(kind) if not ONLY_PLAIN.fullmatch(_text(field.type)))
    return _NAMES[kind]


def _text(annotation: Any) -> str:
    return annotation if isinstance(annotation, str) else getattr(annotation, "__name__", str(annotation))
