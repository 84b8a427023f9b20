"""Several processes of one run on this machine, forked from the test's: they have its imports, and gloo."""

from __future__ import annotations

import multiprocessing
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from sgd.graph.contract.processes import Mesh
from sgd.nodes.models.ranks.torch_processes import TorchProcesses

SECONDS = 120


Join = Callable[[Mesh], TorchProcesses]
"""Joins the processes of a mesh; a later mesh of one process takes the place of the one before."""


def on_ranks(count: int, work: Callable[[Join], Any]) -> list[Any]:
    """Call `work(join)` in `count` processes, each of which joins the others by it.

    Returns:
        What each returned.

    Raises:
        AssertionError: With the traceback of the first rank that failed.
    """
    torch.set_num_threads(1)
    context = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory() as folder:
        started = [context.Process(target=_rank, args=(rank, count, work, Path(folder))) for rank in range(count)]
        for process in started:
            process.start()
        try:
            for process in started:
                process.join(SECONDS)
        finally:
            for process in started:
                if process.is_alive():
                    process.kill()
        failed = sorted(Path(folder).glob("failed*"))
        assert not failed, "\n".join(file.read_text() for file in failed)
        return [torch.load(Path(folder) / f"made{rank}", weights_only=False) for rank in range(count)]


def _rank(rank: int, count: int, work: Callable[[Join], Any], folder: Path) -> None:
    made: list[TorchProcesses] = []

    def join(mesh: Mesh) -> TorchProcesses:
        if made:
            dist.destroy_process_group()
        made.append(TorchProcesses(dist.FileStore(str(folder / f"store{len(made)}"), count), rank, mesh, "cpu"))
        return made[-1]

    try:
        torch.save(work(join), folder / f"made{rank}")
        dist.destroy_process_group()
    except BaseException:
        (folder / f"failed{rank}").write_text(f"rank {rank}\n{traceback.format_exc()}")
