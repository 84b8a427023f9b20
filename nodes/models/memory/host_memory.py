"""Return unused pages of host memory to the system at once.

Loaded weights are memory-mapped files. Parameters at unaligned addresses are copied, and each copy returns the pages of
the file. The memory of a dropped component is also returned to the system.
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
MADV_DONTNEED = 4  # Linux, bits/mman-linux.h
Range = tuple[int, int]


def align(module: torch.nn.Module, files: Iterable[Path]) -> None:
    """Copy the parameters at unaligned addresses to aligned memory.

    CPU kernels compute differently on unaligned memory. Without the copy, a loaded model would differ in the last bits
    from a model built in memory. Each copy returns the parameter's pages of `files` at once. Otherwise the component
    would take twice its memory until the last copy.
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
    """Start and end addresses of the files mapped into this process; empty on systems other than Linux."""
    names = {os.path.realpath(file) for file in files}
    try:
        lines = [line.split(maxsplit=5) for line in os.fsdecode(MAPS.read_bytes()).splitlines()]
    except OSError:
        return []
    found = [line[0].split("-") for line in lines if len(line) == 6 and line[5] in names]
    return [(int(start, 16), int(end, 16)) for start, end in found]


def trim() -> None:
    """Return freed memory from the C library (glibc) to the system.

    glibc otherwise keeps freed tensors under 32 MB, so a dropped component would still take memory. The call takes
    about 60 ms for each returned gigabyte, measured on one core.
    """
    call = getattr(_libc(), "malloc_trim", None)
    if call is not None:
        call(ctypes.c_size_t(0))


def _pages(start: int, size: int, ranges: list[Range]) -> Range | None:
    """Start and length of the whole pages in a block of memory; None outside of the ranges or without a whole page.

    Only mapped files may be returned, since the system can read them again. Other memory would lose its content.
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
    assert libc is not None, "only Linux has ranges"
    # The result is ignored: `madvise` is a hint to the system.
    libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(length), MADV_DONTNEED)
