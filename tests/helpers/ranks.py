"""Several processes of one run on this machine, forked from the test's: they have its imports, and gloo."""

from __future__ import annotations

import multiprocessing
import tempfile
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from sgd.graph.contract.processes import Axis, Group, Mesh, Processes

SECONDS = 120


class Joined(Processes):
    """Processes that have joined torch's default group."""

    def __init__(self, rank: int, mesh: Mesh) -> None:
        self.rank, self.mesh, self.sent = rank, mesh, 0
        self.groups: dict[Any, Any] = {}
        for axis in ("branches", "ulysses", "ring", "sequence", "all"):
            for other in range(mesh.size):
                ranks = mesh.ranks(axis, other)
                if ranks not in self.groups:
                    self.groups[ranks] = dist.new_group(list(ranks))

    def group(self, axis: Axis) -> Group:
        ranks = self.mesh.ranks(axis, self.rank)
        return Group(ranks, ranks.index(self.rank), self.groups[ranks])

    def agree(self, value: Any) -> Any:
        return self.broadcast(value)

    def broadcast(self, value: Any) -> Any:
        held = [value]
        dist.broadcast_object_list(held, src=0)
        return held[0]

    def exchanged(self, sent: int, waited: float = 0.0) -> None:
        self.sent += sent


def on_ranks(count: int, work: Callable[[int], Any]) -> list[Any]:
    """Call `work(rank)` in `count` processes that have joined each other.

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


def _rank(rank: int, count: int, work: Callable[[int], Any], folder: Path) -> None:
    try:
        store = f"file://{folder}/store"
        dist.init_process_group("gloo", init_method=store, rank=rank, world_size=count, timeout=timedelta(seconds=60))
        torch.save(work(rank), folder / f"made{rank}")
        dist.destroy_process_group()
    except BaseException:
        (folder / f"failed{rank}").write_text(f"rank {rank}\n{traceback.format_exc()}")
