"""Start the processes of a run, join them, and the board on which they tell each other what happened.

A node library implements these protocols, since packages such as torch bring processes together
(`NodeLibrary.start_ranks`, `NodeLibrary.join_ranks`).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from .processes import Processes

STARTER = "SGD_STARTED_BY"
"""In the environment of a rank that `sgd exec --processes` started: the number of the process that did."""


@dataclass(frozen=True)
class RankPlace:
    """The place of this process among those that were started together.

    Attributes:
        rank: Its number, from 0.
        size: The number of processes.
        local: Its number among those on this host.
        starter: The number of the process of `sgd exec --processes` that started it; None under another launcher.
        on_host: The number of processes on this host; None if the launcher does not say.
        cards: The number of GPUs that they share; None if not known.
    """

    rank: int
    size: int
    local: int
    starter: int | None = None
    on_host: int | None = None
    cards: int | None = None


def rank_place(environment: Mapping[str, str] = os.environ) -> RankPlace | None:
    """The place of this process, from the variables that torchrun sets; None for a process that stands alone."""
    if "TORCHELASTIC_RUN_ID" not in environment:
        return None
    try:
        rank, size, local = (int(environment[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    except (KeyError, ValueError):
        return None
    starter, on_host = (environment.get(name, "") for name in (STARTER, "LOCAL_WORLD_SIZE"))
    known = (int(text) if text.isdigit() else None for text in (starter, on_host))
    return RankPlace(rank, size, local, *known)


class Board(Protocol):
    """Short texts by name, which all ranks and the process that started them can read and write.

    Every method may raise `OSError` if the process that holds the board has gone.
    """

    def post(self, name: str, text: str) -> None:
        """Write a text; it replaces the one of this name."""

    def first(self, name: str, text: str) -> str:
        """Write a text if there is none of this name. Returns the one that is there then."""

    def read(self, name: str) -> str | None:
        """The text of a name; None if there is none."""


class StartedRanks(Protocol):
    """Processes that were started."""

    @property
    def board(self) -> Board:
        """The board, held by this process."""

    def codes(self) -> Mapping[int, int | None]:
        """The exit code of each rank: None while it runs, the negative number of the signal that killed it."""

    def signal(self, number: int) -> None:
        """Send a signal to all that run."""

    def end(self, seconds: float) -> None:
        """Wait this long for all to end, and kill the others with their children."""


class PlannedRanks(Protocol):
    """The ranks of a planned run: one process traces them one after the other, rank 0 first."""

    def processes(self, rank: int) -> Processes:
        """The processes as one rank sees them. Nothing is sent; the meter of the plan counts the bytes."""


class JoinedRanks(Protocol):
    """The ranks of a run, for a process that is one of them."""

    @property
    def board(self) -> Board:
        """The board. Every thread may use it."""

    def join(self) -> Processes:
        """Join the others, in the thread that runs the nodes. Waits until all are there.

        Raises:
            NodeError: If the others do not come.
        """

    def exchanged_bytes(self) -> int:
        """Bytes that this rank has sent to others."""

    def waited_seconds(self) -> float:
        """Seconds that this rank has waited for others."""

    def collectives(self) -> int:
        """A number that grows with each exchange with other ranks."""

    def waits(self) -> bool:
        """Whether this rank is waiting for others now."""

    def is_lost(self, error: BaseException) -> bool:
        """Whether an error says no more than that another rank has gone."""

    def peak_bytes(self) -> int | None:
        """The most memory that this rank has used: of the card, or of the process on a CPU. None if not known."""
