"""Stored results in two processes: rank 0 has the store, and the other rank what it needs of it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from helpers import rank_toys
from helpers.ranks import Join, on_ranks
from sgd.graph.compiler.compile import check, plan_of
from sgd.graph.compiler.plan import Plan
from sgd.graph.contract.events import CallInfo, Observer, Observers
from sgd.graph.contract.processes import Mesh
from sgd.graph.language.registry import installed
from sgd.graph.runtime import stored_steps
from sgd.graph.runtime.context import Context
from sgd.graph.runtime.execute import Executor
from sgd.graph.runtime.ranks.opening import Opening, opened
from sgd.graph.runtime.ranks.placed_steps import PlacedSteps
from sgd.graph.runtime.record import Recorder
from sgd.graph.runtime.step_wrap import StepWraps
from sgd.graph.runtime.stored_plan import stored_forecast
from sgd.graph.runtime.stored_steps import StoredSteps
from sgd.graph.store.entries import FolderStore

TEXT = """
sgd: 1
name: toys
nodes:
  start: {uses: toy.start, with: {value: 1.0}}
  once: {uses: toy.once, with: {number: $start}}
  loop:
    for: {turn: [0, 1, 2]}
    carry: {state: $once}
    body: {together: {uses: toy.together, with: {number: $state, turn: $turn}}}
    yield: {state: $together}
  each:
    for: {turn: [3, 4]}
    body: {other: {uses: toy.together, with: {number: $loop, turn: $turn}}}
    yield: {all: $other}
  file: {uses: toy.write, with: {number: $loop, path: number.txt}}
  files:
    for: {number: $each.all}
    body: {one: {uses: toy.write, with: {number: $number, path: "each-${index}.txt"}}}
    yield: {all: $one}
outputs: {file: $file, files: $files.all}
"""


class Calls(Observer):
    """The paths of the calls that ran."""

    def __init__(self) -> None:
        self.paths: list[str] = []

    def node_started(self, call: CallInfo, arguments: Mapping[str, Any]) -> None:
        self.paths.append(call.id)


def ran(plan: Plan, store: Path, out: Path, mesh: Mesh) -> list[list[str]]:
    """Run a plan in several processes. The calls of each rank that were not left out."""
    out.mkdir()

    def rank(join: Join) -> list[str]:
        processes, calls, recorder = join(mesh), Calls(), Recorder()
        observer = Observers([*recorder.observers, calls])
        context = Context(out, observer, overwrite=True)
        context.processes = processes
        placed = PlacedSteps(plan, context, processes)
        if processes.rank:
            wrap = opened(plan, context, placed).wrap
        else:
            stored = StoredSteps(FolderStore(store), plan, context, recorder, [], processes, placed.needed)
            processes.broadcast(Opening(reuse=stored.reuse).for_others())
            wrap = StepWraps([stored, placed])
        observer.run_started(plan, context)
        Executor(plan, context, observer, wrap=wrap, skip=placed.skipped).execute()
        return [path for path in calls.paths if path not in placed.skipped]

    return on_ranks(mesh.size, rank)


@pytest.fixture
def compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Plan]:
    monkeypatch.setattr(stored_steps, "perf_counter", itertools.count().__next__)  # each call and each write takes 1 s
    library = installed((Path(rank_toys.__file__),))

    def plan(text: str) -> Plan:
        (tmp_path / "toys.yaml").write_text(text)
        return plan_of(check(tmp_path / "toys.yaml", library=library), library)

    return plan


def numbers(out: Path) -> dict[str, float]:
    return {file.name: float(file.read_text().split()[0]) for file in out.glob("*.txt")}


def test_each_rank_runs_what_is_not_stored(compiled: Callable[[str], Plan], tmp_path: Path) -> None:
    two, store = Mesh(ulysses=2), tmp_path / "store"
    effects = ["file", "files.one", "files.one"]
    loop, each = ["loop.together"] * 3, ["each.other"] * 2
    first = ran(compiled(TEXT), store, tmp_path / "first", two)
    assert [sorted(calls) for calls in first] == [
        sorted(["start", "once", *loop, *each, *effects]),
        sorted(["start", *loop, *each]),
    ]
    made = numbers(tmp_path / "first")
    assert made == {"number.txt": 4.01, "each-0.txt": 5.01, "each-1.txt": 5.01}

    assert ran(compiled(TEXT), store, tmp_path / "second", two) == [effects, []]
    assert numbers(tmp_path / "second") == made

    # Of a loop that is taken apart, one turn is new: it reads a stored result, which rank 1 receives.
    more = TEXT.replace("[3, 4]", "[3, 4, 5]")
    assert ran(compiled(more), store, tmp_path / "third", two) == [
        ["each.other", *effects, "files.one"],
        ["each.other"],
    ]
    assert numbers(tmp_path / "third") == {**made, "each-2.txt": 5.01}

    # Another loop, from a result of a node that runs once.
    longer = TEXT.replace("[0, 1, 2]", "[0, 1]")
    calls = ran(compiled(longer), store, tmp_path / "fourth", two)
    assert calls == [[*loop[:2], *each, *effects], [*loop[:2], *each]]
    assert numbers(tmp_path / "fourth") == {"number.txt": 3.01, "each-0.txt": 4.01, "each-1.txt": 4.01}


def test_another_arrangement_computes_again_what_the_ranks_compute_together(
    compiled: Callable[[str], Plan], tmp_path: Path
) -> None:
    store = tmp_path / "store"
    ran(compiled(TEXT), store, tmp_path / "first", Mesh(ulysses=2))
    known = {
        mesh: stored_forecast(compiled(TEXT), store, "cpu", {}, mesh) for mesh in (Mesh(ulysses=2), Mesh(2), Mesh())
    }
    runs = {mesh: found.those("runs") for mesh, found in known.items() if found is not None}
    assert runs[Mesh(ulysses=2)] == ["file", "files.one"]
    assert runs[Mesh(2)] == runs[Mesh()] == ["loop.together", "each.other", "file", "files.one"]
    again = ran(compiled(TEXT), store, tmp_path / "second", Mesh(branches=2))
    assert "once" not in again[0]
    assert again[1] == [*["loop.together"] * 3, *["each.other"] * 2]
