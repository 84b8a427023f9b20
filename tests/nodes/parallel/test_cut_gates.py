"""Cache gates in a sequence that is cut: at every step they decide as one process does."""

from __future__ import annotations

import pytest
import torch
from helpers.direct import DirectRun
from helpers.gate_pipelines import STEPS
from helpers.gates_apart import MEASURED, PROMPTS, SEEDS, made
from helpers.ours import Pair, decisions
from helpers.ranks import on_ranks
from sgd.graph.contract.processes import Mesh

FEW = {"flux": ("taylorseer",), "z-image": ("teacache",)}
"""Both signals of blocks, with and without a stream of text, and with rows of several lengths."""

MANY = {
    "wan": ("easycache", "time", "magcache"),
    "hunyuan-video": ("teacache", "separate"),
    "flux": ("dbcache", "scm"),
    "qwen-image": ("scm dynamic", "gate"),
    "z-image": ("taylorseer", "fora"),
}
"""Every family, and every method."""


def outcome(pair, method, processes=None):
    """Latents after every step and decisions, of two clips and two branches in one batch."""
    run = DirectRun()
    if processes is not None:
        run.processes = processes
    options = {"prompts": PROMPTS, "seed": SEEDS, "padding": "cut", "batched": True}
    states = pair.run(made(pair.family, method), run=run, **options)
    return states, decisions(run), run.details.get("sequence")


def check(folder, mesh, cases):
    """Compare gates on the processes of a mesh with those of one process."""
    pairs = {family: Pair(family, folder / family, layers=3) for family in cases}
    wanted = {(family, method): outcome(pairs[family], method) for family in cases for method in cases[family]}

    def work(join):
        processes = join(mesh)
        return {case: outcome(pairs[case[0]], case[1], processes) for case in wanted}

    for found in on_ranks(mesh.size, work):
        for case, (states, decided, _) in wanted.items():
            made_states, made_decisions, said = found[case]
            assert said is not None
            assert {key: each.computed for key, each in made_decisions.items()} == {
                key: each.computed for key, each in decided.items()
            }, case
            for key, each in decided.items():
                for ours, reference in zip(made_decisions[key].distances, each.distances, strict=True):
                    assert ours == (None if reference is None else pytest.approx(reference, rel=1e-3)), case
            assert any(each.cached for each in decided.values()), case
            for ours, reference in zip(states, made_states, strict=True):
                assert torch.allclose(ours, reference, rtol=0, atol=3e-5 * reference.abs().max().item()), case
    assert len(states) == STEPS


def test_gates_decide_as_one_process_does(tmp_path):
    check(tmp_path, Mesh(ulysses=2), FEW)


@pytest.mark.slow
def test_gates_of_every_method_in_three_processes(tmp_path):
    assert {method for methods in MANY.values() for method in methods} >= {*MEASURED, "time", "scm", "fora", "magcache"}
    check(tmp_path, Mesh(ring=3), MANY)


@pytest.mark.slow
def test_branches_and_sequences_at_once(tmp_path):
    """Two branches on two processes each. A process reports the decisions of its own branch."""
    pair = Pair("wan", tmp_path / "wan", layers=3)
    gate, mesh = made("wan", "dbcache"), Mesh(branches=2, ulysses=2)
    alone = DirectRun()
    states = pair.run(gate, run=alone)
    wanted = {branch: each.computed for branch, each in decisions(alone).items()}

    def work(join):
        run = DirectRun()
        run.processes = join(mesh)
        return pair.run(gate, run=run), {branch: each.computed for branch, each in decisions(run).items()}

    found = on_ranks(mesh.size, work)
    for rank, (made_states, decided) in enumerate(found):
        branch = ("positive", "negative")[mesh.place(rank).branch]
        assert decided == {branch: wanted[branch]}
        for ours, reference in zip(made_states, states, strict=True):
            assert torch.allclose(ours, reference, rtol=0, atol=3e-5 * reference.abs().max().item())
