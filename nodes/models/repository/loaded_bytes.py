"""How much of a component's weight files was read so far, for the progress display.

The loaders of diffusers and transformers tell nothing, but they map the files into memory, and Linux counts the pages
of mapped files that a process has touched. A file that is not mapped, such as one that is copied as a whole, counts
only when it is in memory. Other systems give no such number.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

STATM = Path("/proc/self/statm")
SHARED = 2
"""The entry of `/proc/self/statm` that counts pages of mapped files (proc(5)). It includes shared memory."""


def total_bytes(files: Sequence[Path]) -> int:
    """Bytes of files."""
    return sum(file.stat().st_size for file in files)


def mapped_bytes() -> Callable[[], int]:
    """A function that gives the bytes of mapped files that were touched since now.

    Files that were unmapped meanwhile, such as the first of several, still count, as far as the function was called
    while they were mapped. The function gives 0 where the system has no such number.
    """
    last, touched = _resident(), 0

    def since() -> int:
        nonlocal last, touched
        now = _resident()
        touched += max(now - last, 0)
        last = now
        return touched

    return since


def _resident() -> int:
    try:
        return int(STATM.read_bytes().split()[SHARED]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0
