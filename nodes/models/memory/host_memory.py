"""The host's memory: memory of dropped components goes back to the system at once.

Weights are mapped files at first, and copied where they lie at odd addresses; file and copies are not held at the
same time. The memory of a dropped component goes back to the system.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

ALIGNMENT = 64
MAPS = Path("/proc/self/maps")
MADV_DONTNEED = 4  # of Linux, bits/mman-linux.h
Range = tuple[int, int]


def align(module: torch.nn.Module, files: Iterable[Path]) -> None:
    """Copy the parameters that lie at odd addresses.

    CPU kernels take other paths on unaligned memory, so that a loaded model would differ in the last bits from
    the same model built in memory. The pages of `files` that a copied parameter was read from are given back at once:
    they would stay until the last parameter is copied, and the component would take twice its memory.
    """
    ranges = mapped(files)
    for parameter in module.parameters():
        if parameter.data_ptr() % ALIGNMENT:
            before = parameter.data
            parameter.data = before.clone()
            pages = _pages(before.data_ptr(), before.nbytes, ranges) if before.is_contiguous() else None
            if pages is not None:
                _give_back(*pages)


def mapped(files: Iterable[Path]) -> list[Range]:
    """Where files are mapped into this process, start and end; nothing on systems other than Linux."""
    names = {os.path.realpath(file) for file in files}
    try:
        lines = [line.split(maxsplit=5) for line in MAPS.read_text().splitlines()]
    except OSError:
        return []
    found = [line[0].split("-") for line in lines if len(line) == 6 and line[5] in names]
    return [(int(start, 16), int(end, 16)) for start, end in found]


def trim() -> None:
    """Give freed memory back to the system, where the C library (glibc) keeps it for later.

    Tensors of less than 32 MB stay with it otherwise, so that a dropped component would go on taking its memory.
    Takes about 60 ms for each gigabyte given back, measured on one core.
    """
    call = getattr(_libc(), "malloc_trim", None)
    if call is not None:
        call(ctypes.c_size_t(0))


def _pages(start: int, size: int, ranges: list[Range]) -> Range | None:
    """Start and length of the whole pages of a piece of memory, if it lies in one of the ranges and has any.

    Only a mapping of a file may be given back: it is read again if someone asks. Other memory would be lost.
    """
    end = start + size
    if not any(low <= start and end <= high for low, high in ranges):
        return None
    first, last = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE, end // mmap.PAGESIZE * mmap.PAGESIZE
    return (first, last - first) if first < last else None


def _libc() -> ctypes.CDLL | None:
    return ctypes.CDLL(None) if sys.platform.startswith("linux") else None


def _give_back(start: int, length: int) -> None:
    libc = _libc()
    assert libc is not None, "there are ranges on Linux only"
    # Advice: nothing is wrong if it is not taken.
    libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(length), MADV_DONTNEED)
