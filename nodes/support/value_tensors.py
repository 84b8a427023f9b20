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
NUMBER = r"(?:int|float|str|bool|None)"
ONLY_PLAIN = re.compile(rf"(?:{NUMBER}|(?:tuple|list)\[{NUMBER}(?:, (?:{NUMBER}|\.\.\.))*\]| \| )+")
"""The annotation of a field without tensors, such as `tuple[float, ...] | None`."""
_NAMES: dict[type, tuple[str, ...]] = {}
_BARE: dict[type, bool] = {}


def has_none(kind: type) -> bool:
    """Whether no value of a type has a tensor: plain values, dataclasses of these, and values with parts to load."""
    bare = _BARE.get(kind)
    if bare is None:
        fields = is_dataclass(kind) and not _names(kind)
        bare = _BARE[kind] = kind in PLAIN or hasattr(kind, "acquire") or fields
    return bare


def tensors_of(
    value: Any, path: str = "", holder: Any = None, depth: int = DEPTH
) -> Iterator[tuple[str, torch.Tensor, Any]]:
    """Each tensor of a value: its path, such as `positive.embeddings`, the tensor, and the list or mapping around it.

    The third entry is None for a tensor in a field. Values whose parts are loaded and dropped (`Port`, `acquire`) have
    no tensors.
    """
    if depth == 0 or has_none(type(value)) or "torch" not in sys.modules:
        return
    if isinstance(value, sys.modules["torch"].Tensor):
        yield path, value, holder
    elif isinstance(value, Mapping):
        for name, entry in value.items():
            if not has_none(type(entry)):
                yield from tensors_of(entry, f"{path}.{name}" if path else str(name), value, depth - 1)
    elif isinstance(value, list | tuple):
        for number, entry in enumerate(value):
            if not has_none(type(entry)):
                yield from tensors_of(entry, f"{path}[{number}]", value, depth - 1)
    elif isinstance(value, Port) or is_dataclass(value):
        for name in _names(type(value)) if is_dataclass(value) else tuple(getattr(value, "__dict__", ())):
            entry = getattr(value, name, None)
            if not has_none(type(entry)):
                yield from tensors_of(entry, f"{path}.{name}" if path else name, None, depth - 1)


def _names(kind: type) -> tuple[str, ...]:
    """The fields of a dataclass that may hold tensors."""
    if kind not in _NAMES:
        found: Any = kind
        _NAMES[kind] = tuple(field.name for field in fields(found) if not ONLY_PLAIN.fullmatch(_text(field.type)))
    return _NAMES[kind]


def _text(annotation: Any) -> str:
    return annotation if isinstance(annotation, str) else getattr(annotation, "__name__", str(annotation))
