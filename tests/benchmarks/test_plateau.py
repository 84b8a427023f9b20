"""Many different runs in one process keep no objects, threads or open files: a short form of `plateau.py`."""

from __future__ import annotations

import gc
import threading
from pathlib import Path

import pytest
from benchmarks import plateau
from helpers import tiny


@pytest.mark.slow
def test_runs_leave_nothing_in_memory(tmp_path: Path) -> None:
    source = tiny.save("wan", tmp_path / "model")

    def after(numbers: range) -> tuple[int, int, int]:
        for number in numbers:
            plateau.one(number, tmp_path, source)
        gc.collect()
        return len(gc.get_objects()), threading.active_count(), len(list(Path("/proc/self/fd").iterdir()))

    objects, threads, files = after(range(12))  # each gate, guidance, dtype and size, a failure and a refusal
    later, threads_later, files_later = after(range(12, 24))
    assert later - objects < 120, "ten objects for each run"
    assert threads_later <= threads
    assert files_later <= files
