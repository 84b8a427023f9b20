"""A node library for runs in several processes, with nothing of torch but its groups: `--library rank_toys.py`.

`toy.together` runs on all ranks at once, and can fail on one of them in every way in which a rank fails, unless the
variable `RANK_TOYS_MENDED` is set. `RANK_TOYS_AWAIT` names the folder of a run; it awaits a snapshot of all ranks there
before. `toy.shared` has a part of its state on each rank.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sgd.graph.contract.diagnostics import Diagnostic
from sgd.graph.contract.facts import NodeFacts
from sgd.graph.contract.node import OutPath, Run, State, node
from sgd.graph.contract.node_library import NodeLibrary
from sgd.graph.contract.ports import Port
from sgd.graph.contract.processes import Mesh
from sgd.graph.contract.rank_start import JoinedRanks, PlannedRanks, RankPlace, StartedRanks
from sgd.graph.resume.snapshot_file import Snapshot
from sgd.graph.resume.snapshot_folder import SnapshotFolder

Fault = Literal["none", "raise", "memory", "exit", "kill", "stop", "hang", "drift"]


@dataclass(frozen=True)
class Number(Port):
    """A number on an edge."""

    value: float

    def facts(self) -> dict[str, Any]:
        return {"value": self.value}


class RankToys(NodeLibrary):
    """Runs in several processes, as the standard library does."""

    starts_ranks = True

    def start_ranks(self, command: Sequence[str], count: int, logs: Path) -> StartedRanks:
        from sgd.nodes.models.ranks.starting import LocalRanks

        return LocalRanks(command, count, logs)

    def join_ranks(self, place: RankPlace, mesh: Mesh, device: str) -> JoinedRanks:
        from sgd.nodes.models.ranks.joining import TorchRanks

        return TorchRanks(place, mesh, device)

    def plan_ranks(self, mesh: Mesh) -> PlannedRanks:
        from sgd.nodes.models.ranks.planned_processes import TracedRanks

        return TracedRanks(mesh)


rank_toys = RankToys()


@node("toy.start")
def start(*, value: float = 0.0, rank: int = -1, run: Run) -> Number:
    """A number. On one rank it is another one, as rounding could make it."""
    return Number(value + 0.25 * (run.processes.rank == rank))


@node("toy.once", processes="once")
def once(number: Number, run: Run) -> Number:
    """The number, and a tenth of the rank and of the size of the run: rank 0 calls this alone."""
    return Number(number.value + 0.1 * run.processes.rank + 0.01 * run.processes.size)


@node("toy.wait")
def wait(number: Number, *, seconds: float) -> Number:
    """The number, after some seconds without progress."""
    time.sleep(seconds)
    return number


@dataclass(frozen=True, kw_only=True)
class TogetherFacts(NodeFacts):
    """Facts of `toy.together`."""

    number: Any = None
    turn: int | None = None
    fault: str | None = None
    on: int | None = None
    at: int | None = None


def _check_mesh(facts: TogetherFacts, mesh: Mesh) -> Iterator[Diagnostic]:
    if mesh.ring > 1:
        yield Diagnostic("unsupported", "a toy has no ring", "number")


@node("toy.together", processes="split", check_mesh=_check_mesh)
def together(number: Number, run: Run, *, turn: int, fault: Fault = "none", on: int = 1, at: int = 2) -> Number:
    """Add the ranks of all processes to a number; fail on rank `on` in turn `at`."""
    processes = run.processes
    if processes.rank == on and turn == at and not os.environ.get("RANK_TOYS_MENDED"):
        if fault in ("raise", "hang"):
            run.warn("a toy is loose")
        _fail(fault)
    found = [processes.broadcast(float(rank), source=rank) for rank in range(processes.size)]
    return Number(number.value + sum(found) + 0.001 * (fault == "drift") * processes.rank)


def _fail(fault: str) -> None:
    time.sleep(0.5 * (fault not in ("none", "drift")))  # so that the rank has told where it is
    awaited, until = os.environ.get("RANK_TOYS_AWAIT"), time.monotonic() + 20
    while awaited is not None and not _is_whole(Path(awaited)) and time.monotonic() < until:
        time.sleep(0.01)
    told = os.environ.get("RANK_TOYS_FAULT_FILE")
    if told is not None and fault not in ("none", "drift"):
        Path(told).write_text(str(time.time()))
    if fault == "raise":
        raise ValueError("a toy broke")
    if fault == "memory":
        raise MemoryError("a toy is too large")
    if fault == "exit":
        os._exit(7)
    if fault in ("kill", "stop"):
        os.kill(os.getpid(), signal.SIGKILL if fault == "kill" else signal.SIGSTOP)
    if fault == "hang":
        time.sleep(1000)


def _is_whole(run: Path) -> bool:
    """Whether all ranks have written their parts of a snapshot."""
    return any(isinstance(found, Snapshot) and found.parts for _, found in SnapshotFolder(run).snapshots())


class Share(State):
    """A part of a sum."""

    def __init__(self) -> None:
        self.sum = 0.0

    def snapshot(self) -> float:
        return self.sum

    def restore(self, snapshot: float, run: Run) -> None:
        self.sum = snapshot if run.processes.rank == run.processes.size - 1 else 0.0

    @classmethod
    def is_divided(cls, snapshot: Any, mesh: Mesh) -> bool:
        return True

    @classmethod
    def merged(cls, parts: Sequence[Any], mesh: Mesh) -> float:
        return float(sum(parts))


@node("toy.shared", processes="split")
def shared(number: Number, share: Share, run: Run, *, turn: int) -> Number:
    """Add to the number the sum of all turns up to this one. Each turn is in the sum of one rank."""
    processes = run.processes
    share.sum += turn if turn % processes.size == processes.rank else 0
    found = [processes.broadcast(share.sum, source=rank) for rank in range(processes.size)]
    return Number(number.value + sum(found))


@node("toy.agreed")
def agreed(number: Number, run: Run) -> Number:
    """A number of this rank's own, agreed."""
    return Number(number.value + run.agree(run.processes.rank + 0.5))


@node("toy.write", effect=True)
def write(number: Number, run: Run, *, path: OutPath = Path("number.txt")) -> Number:
    """Write a number, with the rank that writes it."""
    run.output(path).write_text(f"{number.value:.6f} of rank {os.environ.get('RANK', '-')}\n")
    return number
