"""A place between two turns of a loop, with everything that the rest of the run needs. Values are held, not copied."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from ..compiler.ir import Index, Ref, Var

Key = Ref | Var | Index
StateKey = tuple[str, str]
"""Path of a node, and the name of its parameter."""


@dataclass(frozen=True)
class LoopLevel:
    """A loop that is under way.

    Attributes:
        loop: Its path in the file.
        step: Its number among the steps of its level.
        turn: The number of turns that are over.
        total: The number of all turns.
        states: Snapshots of the states of its nodes.
        collected: The results of a mapping loop so far: a list that only grows, and the number of its entries that
            count.
        over: The values of loop variables whose source is gone: those of turns that have not begun.
    """

    loop: str
    step: int
    turn: int
    total: int
    states: Mapping[StateKey, Any] = field(default_factory=dict)
    collected: Mapping[str, tuple[Sequence[Any], int]] = field(default_factory=dict)
    over: Mapping[str, Sequence[Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Position:
    """A place between two turns.

    Attributes:
        levels: The loops under way, the outermost first. The innermost is between two turns; the others are in one.
        states: Snapshots of the states of nodes outside of loops.
        values: The values that are alive.
    """

    levels: tuple[LoopLevel, ...]
    states: Mapping[StateKey, Any]
    values: Mapping[Key, Any]


@dataclass(frozen=True)
class FinishedEffect:
    """A call that has written its files after the last position.

    Attributes:
        call: Its path in the file.
        turns: The turns under way of the loops around it, the outermost first.
        outputs: Its outputs by port.
        files: Its files.
    """

    call: str
    turns: tuple[int, ...]
    outputs: Mapping[str, Any]
    files: tuple[Path, ...]


@dataclass(frozen=True)
class Start:
    """Where a resumed run begins.

    Attributes:
        position: The last position.
        again: Paths of calls before it whose values no file holds, so that they are called again.
        effects: Calls after it that need not be called, by path and turns.
    """

    position: Position
    again: frozenset[str]
    effects: Mapping[tuple[str, tuple[int, ...]], FinishedEffect]


class Positions(Protocol):
    """Hears where the executor is."""

    def reached(self, position: Position) -> None:
        """The run is between two turns."""

    def unkept(self, loop: str, turn: int, reason: str) -> None:
        """The run is between two turns, and a state cannot be kept."""

    def effect_finished(self, effect: FinishedEffect) -> None:
        """A call has written its files."""
