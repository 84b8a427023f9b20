"""Warnings of other ranks, which rank 0 records and tells at the end of the run."""

from __future__ import annotations

import json
import threading
from collections.abc import Collection

from ...contract.events import CallInfo, Observer
from ...contract.rank_start import Board


class RankWarnings(Observer):
    """Keeps the warnings of a rank, and posts them on the board.

    Attributes:
        messages: The warnings so far, in the form of the record.
    """

    def __init__(self) -> None:
        self.messages: list[str] = []
        self._posted = 0
        self._lock = threading.Lock()

    def warned(self, call: CallInfo | None, message: str) -> None:
        self.messages.append(f"{call.id}: {message}" if call is not None else message)

    def post(self, board: Board, rank: int) -> None:
        """Put the warnings on the board, if there are new ones."""
        with self._lock:  # two threads post, and an older text must not replace a newer one
            messages = list(self.messages)
            if len(messages) > self._posted:
                board.post(_name(rank), json.dumps(messages))
                self._posted = len(messages)


def others_warnings(board: Board, size: int, known: Collection[str]) -> list[str]:
    """The warnings that ranks other than 0 have posted, each with its ranks: `rank 1, 3: node: message`.

    Args:
        board: The board.
        size: The number of ranks.
        known: The warnings of the record so far. Those of other ranks with the same text are left out.
    """
    ranks: dict[str, list[str]] = {}
    for rank in range(1, size):
        for message in dict.fromkeys(json.loads(board.read(_name(rank)) or "[]")):
            ranks.setdefault(message, []).append(str(rank))
    told = {message: f"rank {', '.join(each)}: {message}" for message, each in ranks.items()}
    return [text for message, text in told.items() if message not in known and text not in known]


def _name(rank: int) -> str:
    return f"warnings/{rank}"
