"""States of cache gates in several processes, cut after a step: they go on in as many processes, and in others."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.denoise_loop import Case, Loop, new_states, through_a_file
from helpers.gates_apart import made
from helpers.ours import Pair
from helpers.ranks import Join, on_ranks
from sgd.graph.contract.node import State
from sgd.graph.contract.processes import Mesh, Processes
from sgd.nodes.cache.state import GateState

ONE = Mesh()
CUTS = (5,)


@dataclass(frozen=True)
class Ended:
    """A loop that has ended: its latents, what its gate decided, and the states and latents after some steps."""

    latents: torch.Tensor
    decided: list[tuple[Any, ...]]
    kept: dict[int, tuple[list[Any], Any]]


def ended(loop: Loop, processes: Processes, at: int = 0, states: Sequence[State] = (), now: Any = None) -> Ended:
    """A loop from a step on."""
    loop.run.processes = processes
    kept: dict[int, tuple[list[Any], Any]] = {}
    held = tuple(states) or new_states()

    def after(latents: Any) -> None:
        step = at + len(seen) + 1
        seen.append(step)
        if step in CUTS:
            kept[step] = [state.snapshot() for state in held], (latents, loop.plan)

    seen: list[int] = []
    found = loop.steps(loop.noise if now is None else now, at, held, after)
    decided = [
        (data["step"], data["branch"], data["computed"], data["reason"])
        for kind, data in loop.run.events
        if kind == "gate"
    ]
    return Ended(found.tensor, decided, kept)


def merged(ranks: Sequence[Ended], mesh: Mesh, step: int, file: Path) -> tuple[list[Any], Any]:
    """States, latents and schedule after a step, of one process, after they went through a file."""
    parts = [rank.kept[step][0] for rank in ranks]
    gates, *others = parts[0]
    divided = [GateState.is_divided(part[0], mesh) for part in parts]
    if any(divided):
        gates = GateState.merged([part[0] if d else None for part, d in zip(parts, divided, strict=True)], mesh)
    found: tuple[list[Any], Any] = through_a_file(([gates, *others], ranks[0].kept[step][1]), file)
    return found


def check(tmp_path: Path, family: str, case: Case, first: Mesh, later: Sequence[Mesh]) -> None:
    """Begin on the processes of a mesh, and go on after some steps on those of others."""
    pair = Pair(family, tmp_path / family, layers=3)

    def work(mesh: Mesh, begin: Callable[[Processes], Any]) -> list[Any]:
        def rank(join: Join) -> Any:
            return begin(join(mesh))

        return on_ranks(mesh.size, rank) if mesh.size > 1 else [begin(Processes())]

    whole = {mesh: work(mesh, lambda processes: ended(Loop(pair, case), processes)) for mesh in {first, *later}}
    assert {computed for *_, computed, _ in whole[first][0].decided} == {True, False}
    for step in CUTS:
        held, now = merged(whole[first], first, step, tmp_path / "s.safetensors")

        def go_on(processes: Processes, step: int = step, held: list[Any] = held, now: Any = now) -> Ended:
            loop, states = Loop(pair, case), new_states()
            loop.run.processes, (latents, loop.plan) = processes, now
            for state, snapshot in zip(states, held, strict=True):
                state.restore(snapshot, loop.run)
            return ended(loop, processes, step, states, latents)

        for mesh in later:
            for rank, (found, wanted) in enumerate(zip(work(mesh, go_on), whole[mesh], strict=True)):
                assert found.decided == [row for row in wanted.decided if row[0] >= step], (mesh, rank, step)
                if mesh == first:
                    assert torch.equal(found.latents, wanted.latents), (mesh, rank, step)
                limit = 3e-5 * wanted.latents.abs().max().item()
                assert torch.allclose(found.latents, wanted.latents, rtol=0, atol=limit), (mesh, rank, step)


def case(family: str, method: str) -> Case:
    """Two clips of prompts with other numbers of tokens."""
    return Case(lambda _: made(family, method), split={"batched": False}, clips=2)


@pytest.mark.parametrize("mesh", [Mesh(ulysses=2), pytest.param(Mesh(branches=2), marks=pytest.mark.slow)], ids=str)
def test_two_processes_go_on_in_two_and_in_one(tmp_path: Path, mesh: Mesh) -> None:
    """Each process has a part of the states: of the tokens, or the branches."""
    check(tmp_path, "wan", case("wan", "taylorseer"), mesh, [mesh, ONE])


def test_a_process_goes_on_whose_branch_has_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guidance starts after the step at which the loop is cut, so that one process has opened no gate by then."""
    monkeypatch.setattr(sys.modules[__name__], "CUTS", (2,))
    mesh = Mesh(branches=2)
    check(
        tmp_path, "wan", replace(case("wan", "taylorseer"), split={"batched": False, "start": 0.5}), mesh, [mesh, ONE]
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "method"),
    [
        ("wan", "easycache"),
        ("hunyuan-video", "teacache"),
        ("flux", "taylorseer"),
        ("z-image", "fora"),
    ],
)
def test_other_numbers_of_processes(tmp_path: Path, family: str, method: str) -> None:
    three = Mesh(ring=3)
    check(tmp_path, family, case(family, method), three, [three, Mesh(ulysses=2), ONE])
    check(tmp_path / "back", family, case(family, method), ONE, [three])


@pytest.mark.slow
def test_branches_and_sequences_go_on_in_other_arrangements(tmp_path: Path) -> None:
    both = Mesh(branches=2, ulysses=2)
    check(tmp_path, "wan", case("wan", "taylorseer"), both, [both, Mesh(branches=2), Mesh(ring=3), ONE])
