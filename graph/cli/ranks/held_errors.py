"""Errors of a rank that has no log, as under torchrun: they are held back, since rank 0 tells most of them too.

Rank 0 tells the faults of ranks that have joined. A rank that fails before, such as on a host without a file that the
others have, tells why itself, a moment later: if rank 0 has failed too, the launcher ends this rank meanwhile.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable
from typing import BinaryIO

from ...contract.constants import DONE, FAILED, INTERRUPTED
from ...contract.rank_start import RankPlace

MOMENT_SECONDS = 1.0
APART_SECONDS = 0.15
"""How long a rank waits before it tells its error, and by how much longer than the rank before it on its host."""
MOST_BYTES = 20_000
"""As much of the end of the errors is told."""


class _State:
    """Of this process: whether rank 0 hears of its faults."""

    is_heard = False


def hold_errors(place: RankPlace, command: Callable[[], int]) -> int:
    """Run a command, and hold back what it writes to stderr; stdout goes to nobody. Returns the exit code.

    The text is told at the end, with the number of the rank before each line, if the command fails unheard.
    """
    _State.is_heard = False
    terminal = os.dup(2)
    with tempfile.TemporaryFile() as held:
        nobody = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nobody, 1)
        os.close(nobody)
        os.dup2(held.fileno(), 2)
        code = FAILED
        try:
            code = command()
        finally:  # an exception is told as Python does
            is_told = code not in (DONE, INTERRUPTED) and not _State.is_heard
            if is_told:
                time.sleep(MOMENT_SECONDS + APART_SECONDS * place.local)
                if sys.stderr is not None:
                    sys.stderr.flush()
                os.dup2(terminal, 2)
                os.write(2, _numbered(held, place.rank))
            os.close(terminal)
    return code


def heard() -> None:
    """Tell no errors of this rank: rank 0 has heard of them."""
    _State.is_heard = True


def _numbered(held: BinaryIO, rank: int) -> bytes:
    """The end of the held text, with the number of the rank before each line."""
    size = held.seek(0, os.SEEK_END)
    held.seek(max(size - MOST_BYTES, 0))
    return b"".join(b"rank %d: %s\n" % (rank, line) for line in held.read().rstrip().splitlines())
