"""Events of other ranks in the record of rank 0, such as decisions about evaluations that only they compute."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from ...contract.events import CallInfo, Observer
from ...contract.processes import Mesh, Processes
from ...contract.rank_start import Board
from ..record_values import clean

Heard = Callable[[str, Mapping[str, Any]], None]
"""Receives the kind and the data of an event of another rank."""


def leaders(mesh: Mesh) -> tuple[int, ...]:
    """The first rank of each branch but rank 0: the others of a branch tell the same."""
    return tuple(branch * mesh.sequence for branch in range(1, mesh.branches))


class RankEvents(Observer):
    """Keeps the events of a rank until rank 0 has heard of them."""

    def __init__(self) -> None:
        self._new: list[tuple[str, dict[str, Any]]] = []

    def event(self, call: CallInfo | None, kind: str, data: Mapping[str, Any]) -> None:
        node = {"node": call.id} if call is not None else {}
        self._new.append((kind, {**node, **data}))

    def tell(self, processes: Processes, heard: Heard | None) -> None:
        """Send rank 0 the events since the last call. All ranks call this together. `heard`: given on rank 0."""
        for leader in leaders(processes.mesh):
            told = self._taken() if processes.rank == leader else []
            for kind, entry in processes.broadcast(told, source=leader):
                if heard is not None:
                    heard(kind, entry)
        self._new.clear()

    def post(self, board: Board, rank: int) -> None:
        """Put the events since the last time on the board, at the end of a run."""
        board.post(_name(rank), json.dumps(self._taken()))

    def _taken(self) -> list[tuple[str, Any]]:
        return [(kind, clean(entry)) for kind, entry in self._new]


def hear_last(board: Board, mesh: Mesh, heard: Heard) -> None:
    """Pass on the events that other ranks have posted."""
    for rank in leaders(mesh):
        for kind, entry in json.loads(board.read(_name(rank)) or "[]"):
            heard(kind, entry)


def _name(rank: int) -> str:
    return f"events/{rank}"
