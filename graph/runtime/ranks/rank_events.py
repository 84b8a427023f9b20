"""Events of other ranks in the record of rank 0, such as decisions about evaluations that only they compute."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ...contract.events import CallInfo, LoopInfo, Observer
from ...contract.processes import Mesh
from ...contract.rank_start import Board
from ..record import clean

Events = dict[str, list[dict[str, Any]]]


def leaders(mesh: Mesh) -> tuple[int, ...]:
    """The first rank of each branch but rank 0: the others of a branch tell the same."""
    return tuple(branch * mesh.sequence for branch in range(1, mesh.branches))


@dataclass
class RankEvents(Observer):
    """Keeps the events of a rank by kind, with the number of turns until each: that is equal on all ranks."""

    turns: int = 0
    entries: Events = field(default_factory=dict)
    at: dict[str, list[int]] = field(default_factory=dict)

    def turn_started(self, loop: LoopInfo, index: int, variables: Mapping[str, Any]) -> None:
        self.turns += 1

    def event(self, call: CallInfo | None, kind: str, data: Mapping[str, Any]) -> None:
        node = {"node": call.id} if call is not None else {}
        self.entries.setdefault(kind, []).append({**node, **data})
        self.at.setdefault(kind, []).append(self.turns)

    def post(self, board: Board, rank: int) -> None:
        """Put them on the board."""
        board.post(_name(rank), json.dumps(clean({"entries": self.entries, "at": self.at})))

    def with_others(self, board: Board, mesh: Mesh) -> Events:
        """The events of this rank and those that others have posted, in the order of turns."""
        texts = [board.read(_name(rank)) for rank in leaders(mesh)]
        found = [(self.entries, self.at), *((t["entries"], t["at"]) for t in map(json.loads, filter(None, texts)))]
        merged: Events = {}
        for kind in dict.fromkeys(kind for entries, _ in found for kind in entries):
            pairs = [
                pair for entries, at in found for pair in zip(at.get(kind, ()), entries.get(kind, ()), strict=True)
            ]
            merged[kind] = [entry for _, entry in sorted(pairs, key=lambda pair: pair[0])]
        return merged


def _name(rank: int) -> str:
    return f"events/{rank}"
