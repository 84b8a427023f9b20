"""A rank tells where it is, every second, on the board."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any

from ...contract.rank_start import Board

EVERY_SECONDS = 1.0


@dataclass(frozen=True)
class Beat:
    """Where a rank is, and what it has used so far.

    Attributes:
        serial: Grows with every beat.
        count: Grows while the rank goes on: with nodes, turns, exchanges, bytes that are loaded.
        exchanges: Grows with exchanges alone. All ranks take part in the same exchanges, so the rank with the smallest
            number is behind.
        node: The path and type of the node at work; empty before the first.
        turn: The turns under way, `3/20 of loop`; empty outside of loops.
        limit: How long the rank may take here without going on, in seconds.
        waits: Whether it waits for other ranks.
        over: Whether its part of the run is done.
        seconds: Seconds since it began.
        waited_seconds: Seconds of these in which it waited for others.
        exchanged_bytes: Bytes that it sent to others.
        peak_bytes: The most memory that it used: of the card, or of the process on a CPU.
        process: The number of its process.
        host: Its host, as `rank_devices.host` names it.
        nodes: In the last beat, a row for each node that it ran: `name`, `calls`, `seconds`.
    """

    serial: int = 0
    count: int = 0
    exchanges: int = 0
    node: str = ""
    turn: str = ""
    limit: float = 0.0
    waits: bool = False
    over: bool = False
    seconds: float = 0.0
    waited_seconds: float = 0.0
    exchanged_bytes: int = 0
    peak_bytes: int | None = None
    process: int = 0
    host: str = ""
    nodes: list[dict[str, Any]] = field(default_factory=list)

    @property
    def place(self) -> str:
        """Where the rank is, in words."""
        turn = f" (turn {self.turn})" if self.turn else ""
        return f"in {self.node}{turn}" if self.node else "before its first node"

    def row(self, rank: int) -> dict[str, Any]:
        """The row of the record."""
        names = ("seconds", "waited_seconds", "exchanged_bytes", "peak_bytes", "nodes")
        return {"rank": rank, **{name: getattr(self, name) for name in names}}

    def post(self, board: Board, rank: int) -> None:
        """Put the beat on the board."""
        board.post(_name(rank), json.dumps(asdict(self)))


def read_beat(board: Board, rank: int) -> Beat | None:
    """The last beat of a rank; None before its first."""
    text = board.read(_name(rank))
    return None if text is None else Beat(**json.loads(text))


def _name(rank: int) -> str:
    return f"beat/{rank}"
