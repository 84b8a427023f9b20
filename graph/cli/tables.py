"""Cells that the tables of runs and plans share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..runtime.recorded_outputs import flat

each = flat


def shape(outputs: Sequence[Mapping[str, Any]]) -> str:
    """Shape and dtype of a row's first output."""
    if not outputs:
        return ""
    first = outputs[0]
    if "shape" in first:
        many = f"{first['count']} x " if "count" in first else ""
        return f"{many}{'x'.join(map(str, first['shape']))} {first.get('dtype', '')}".strip()
    return f"{first['steps']} steps" if "steps" in first else ""


def facts(detail: Mapping[str, Any]) -> str:
    """The details of a node that are single values: `tokens 118800`."""
    return ", ".join(f"{name} {value}" for name, value in detail.items() if isinstance(value, str | int | float))


def indent(name: str) -> str:
    """The last name of a path, indented under the path's loop or composite."""
    return "  " * name.count(".") + name.rsplit(".", 1)[-1]


def tree(names: Iterable[str]) -> list[str]:
    """Sort paths so that the nodes of a loop or composite follow it. Siblings keep their given order."""
    names = list(names)
    place: dict[str, int] = {}
    for number, name in enumerate(names):
        parts = name.split(".")
        for length in range(1, len(parts) + 1):
            place.setdefault(".".join(parts[:length]), number)

    def key(name: str) -> tuple[int, ...]:
        parts = name.split(".")
        prefixes = [".".join(parts[: n + 1]) for n in range(len(parts))]
        return tuple(place.get(p, len(names)) for p in prefixes)

    return sorted(names, key=key)
