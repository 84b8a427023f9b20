"""What ended a rank: the first such fault is on the board, and is the message of the run."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from dataclasses import asdict, dataclass

from ...contract.constants import INTERRUPTED
from ...contract.errors import DoesNotFit, NodeError
from ...contract.rank_start import Board

FAULT = "fault"
"""The name of the first fault on the board."""


@dataclass(frozen=True)
class Fault:
    """Why a rank ended, or must end.

    Attributes:
        rank: Its number.
        message: What happened to which rank and where, in words.
        help: A step that the user can take; empty if there is none.
        memory: Whether memory ran out.
    """

    rank: int
    message: str
    help: str = ""
    memory: bool = False

    def error(self) -> NodeError:
        """The fault as the error of a run."""
        kind = DoesNotFit if self.memory else NodeError
        return kind(self.message + (f"\n = help: {self.help}" if self.help else ""), code="failed")

    def post(self, board: Board) -> Fault:
        """Put the fault on the board, unless there is one. Returns the one that is there then."""
        return read_fault(board.first(FAULT, json.dumps(asdict(self))))


def read_fault(text: str) -> Fault:
    """The fault of a text of the board."""
    return Fault(**json.loads(text))


def posted(board: Board) -> Fault | None:
    """The first fault; None if there is none."""
    text = board.read(FAULT)
    return None if text is None else read_fault(text)


def ended(rank: int, code: int, place: Callable[[int], str]) -> Fault:
    """The fault of a rank that ended with an exit code and told nothing.

    Args:
        rank: The rank.
        code: The exit code, the negative number of a signal if one killed it.
        place: Gives the place where a rank was last, in words.
    """
    if code == INTERRUPTED:
        return Fault(rank, f"rank {rank} was interrupted {place(rank)}")
    if code >= 0:
        return Fault(rank, f"rank {rank} ended with exit code {code} {place(rank)}")
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = "unknown"
    killed = -code == getattr(signal, "SIGKILL", None)
    help = "the system kills processes when the memory of the host runs out" if killed else ""
    return Fault(rank, f"rank {rank} was killed by signal {-code} ({name}) {place(rank)}", help)
