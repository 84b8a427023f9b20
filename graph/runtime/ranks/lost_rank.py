"""A rank that has ended without a word under a launcher that tells nobody, as torchrun: it was killed, say.

Such a launcher ends the other ranks by a signal, which looks like an interrupt of the user.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from ...contract import interrupts
from ...contract.rank_start import Board
from .rank_beat import read_beat
from .rank_devices import host
from .rank_fault import Fault

HELP = "the launcher tells its exit code or signal; the system kills processes when the memory of the host runs out"


def lost_rank(board: Board, size: int) -> Fault | None:
    """The fault if a rank of this host has ended unheard; None if none has, or it is not known.

    The fault is posted, and the interrupt of the launcher counts no more.

    Args:
        board: The board of the run.
        size: The number of ranks.
    """
    with suppress(OSError):  # the board has gone, with the launcher
        for rank in range(size):
            beat = read_beat(board, rank)
            if beat is not None and not beat.over and beat.host == host() and _has_ended(beat.process):
                fault = Fault(rank, f"rank {rank} ended without a word {beat.place}", HELP).post(board)
                interrupts.withdraw()
                return fault
    return None


def _has_ended(process: int) -> bool:
    """Whether a process of this machine has ended; false where there is no `/proc`."""
    if not Path("/proc/self/stat").exists():
        return False
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return True
    return state in "ZX"
