"""Annotations of the parameters of a node's function: parts that are read, values that are passed on, paths."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal


@dataclass(frozen=True)
class Reads:
    """`Annotated[Book, Reads("chapters")]`: the node reads these parts of the value. Without parts, only its facts."""

    parts: frozenset[str]

    def __init__(self, *parts: str) -> None:
        object.__setattr__(self, "parts", frozenset(parts))


@dataclass(frozen=True)
class Passes:
    """`Annotated[Book, Passes()]`: the value is passed on. Readers of the output decide which of its parts are read."""


@dataclass(frozen=True)
class Shares:
    """`Annotated[Book, Reads(), Shares()]`: the node's output shares its parts with this parameter's value.

    A shared part stays in memory between the readers of the values that share it.
    """


@dataclass(frozen=True)
class PathRole:
    """How a path parameter is resolved: `read` and `write` are paths; a `source` is a folder or a name."""

    role: Literal["read", "write", "source"]


OutPath = Annotated[Path, PathRole("write")]
Source = Annotated[str, PathRole("source")]
