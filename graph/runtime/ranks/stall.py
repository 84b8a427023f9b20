"""Whether the ranks of a run still go on: which one is behind, and for how long.

A rank that is slow alone hurts nobody. The run is stalled if a rank waits for another one that does not go on, if all
wait, or if one says nothing any more.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

from ...contract.errors import NodeError
from ...contract.rank_start import Board
from .rank_beat import Beat, read_beat
from .rank_fault import Fault

VARIABLE = "SGD_STALL_SECONDS"
"""The environment variable that replaces `STALL_SECONDS`."""

STALL_SECONDS = 30.0
START_SECONDS = 300.0
LOAD_SECONDS = 300.0
KERNEL_SECONDS = 900.0
FILE_SECONDS = 600.0
"""How long a rank may be without progress: in nodes; until its first node; while it loads, builds kernels, writes."""


def stall_seconds() -> float:
    """The limit in nodes.

    Raises:
        NodeError: If the environment variable is no number of seconds above 0.
    """
    text = os.environ.get(VARIABLE, "")
    if not text:
        return STALL_SECONDS
    try:
        given = float(text)
    except ValueError:
        given = 0.0
    if not 0 < given < float("inf"):
        raise NodeError(f"{VARIABLE}={text} is no number of seconds above 0", help=f"set it to 30, or unset {VARIABLE}")
    return given


def _more(limit: float) -> str:
    """Advice that allows more than a limit in seconds."""
    return f"{VARIABLE}={2 * limit:g} allows more"


@dataclass
class _Seen:
    """A rank as the judge sees it. `spoke` and `moved`: when its last beat came, and when its count last grew."""

    spoke: float
    moved: float
    beat: Beat | None = None


@dataclass
class StallJudge:
    """Follows the beats of all ranks.

    Args:
        size: The number of ranks.
        now: The time, in seconds of a clock that never goes back.
    """

    size: int
    now: float
    limit: float = field(default_factory=stall_seconds)

    def __post_init__(self) -> None:
        self._seen = {rank: _Seen(self.now, self.now) for rank in range(self.size)}

    def read(self, board: Board, now: float) -> None:
        """Read the beats of all ranks from the board."""
        self.see({rank: read_beat(board, rank) for rank in range(self.size)}, now)

    def see(self, beats: Mapping[int, Beat | None], now: float) -> None:
        """Take over the last beat of each rank."""
        for rank, beat in beats.items():
            seen = self._seen[rank]
            if beat is None:
                continue
            if seen.beat is None or beat.serial != seen.beat.serial:
                seen.spoke = now
            if seen.beat is None or beat.count != seen.beat.count:
                seen.moved = now
            seen.beat = beat

    def place(self, rank: int) -> str:
        """Where a rank was last, in words."""
        beat = self._seen[rank].beat
        return beat.place if beat is not None else "while it started"

    def stalled(self, now: float) -> Fault | None:
        """The fault of the rank that holds the others up; None if all go on."""
        at_work = {r: s for r, s in self._seen.items() if s.beat is None or not s.beat.over}
        for rank, seen in at_work.items():
            silent = now - seen.spoke
            limit = max(START_SECONDS, self.limit) if seen.beat is None else self.limit
            if silent > limit:
                message = f"rank {rank} has said nothing for {silent:.0f} s; it was {self.place(rank)}"
                return Fault(rank, message, _more(limit))
        idle = {rank: now - seen.moved for rank, seen in at_work.items() if seen.beat is not None}
        waiting = [r for r in idle if self._beat(r).waits]
        late = [r for r in idle if idle[r] > self._beat(r).limit]
        busy = [r for r in late if r not in waiting]
        if busy and any(idle[r] > self.limit for r in waiting):
            rank = max(busy, key=lambda r: idle[r])
        elif late and len(waiting) == len(at_work) == len(late):
            rank = min(late, key=lambda r: (self._beat(r).exchanges, self._beat(r).count))
        else:
            return None
        message = f"rank {rank} does not go on: no progress for {idle[rank]:.0f} s {self.place(rank)}"
        beat = self._beat(rank)
        report = "; a node that works for long can call `run.progress`" if beat.node and not beat.waits else ""
        return Fault(rank, message, _more(beat.limit) + report)

    def _beat(self, rank: int) -> Beat:
        beat = self._seen[rank].beat
        assert beat is not None
        return beat
