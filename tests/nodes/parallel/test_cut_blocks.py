"""A sequence that is cut over processes: each family's transformer gives what diffusers' own forward gives in one."""

from __future__ import annotations

import copy

import pytest
import torch
from helpers.ranks import on_ranks
from helpers.transformer_cases import (
    CASES,
    WIDER,
    called,
    flux,
    hunyuan_video,
    qwen_image,
    random,
    relative,
    shaken,
    wan,
    wider,
)
from sgd.graph.contract.node import Run
from sgd.graph.contract.processes import Mesh
from sgd.nodes.families import by_name
from sgd.nodes.models.memory.component_views import view
from sgd.nodes.models.ranks.collectives import first_number
from sgd.nodes.models.ranks.planned_processes import TracedRanks
from sgd.nodes.models.rebuilt.rebuilding import rebuild
from sgd.nodes.parallel.cut_blocks import CutSequence, CutTransformer
from sgd.nodes.parallel.sequence_group import sequence_group
from sgd.nodes.support import cost_meter

CLOSE = 3e-6
PLANNED = ("flux", "wan", "hunyuan-video")
PLAN = Run()
PLAN.planning = True
ODD = {
    "flux": lambda rows: flux(rows) | {"hidden_states": random(rows, 11, 16), "img_ids": random(11, 3)},
    "hunyuan-video": lambda rows: hunyuan_video(rows) | {"hidden_states": random(rows, 4, 3, 6, 2)},
    "qwen-image": lambda rows: (
        qwen_image(rows) | {"hidden_states": random(rows, 7, 16), "img_shapes": [[(1, 1, 7)]] * rows}
    ),
    "wan": lambda rows: wan(rows) | {"hidden_states": random(rows, 16, 3, 6, 2)},
}
"""Inputs with 11, 9, 7 and 9 tokens of the image. Texts have 5, 6, 6 and 7; Z-Image fills all to a multiple of 32."""


def family_of(case):
    return by_name("wan" if case.startswith("wan") else case)


def check(meshes, build):
    """Compare one forward of every case, by diffusers' blocks and rebuilt ones, with diffusers' own in one process.

    A plan counts the bytes that the processes sent.

    Args:
        meshes: Meshes of one number of processes, and the number of rows in the batch of each.
        build: Builds the transformer of a case.
    """
    modules = {case: shaken(build(case)) for case in CASES}
    given = {(case, rows): ODD.get(case, CASES[case][1])(rows) for case in CASES for rows in meshes.values()}
    wanted = {key: called(modules[key[0]], inputs) for key, inputs in given.items()}
    views = {case: view(module) for case, module in modules.items()}
    for module in views.values():
        assert rebuild(module, join=False)

    def work(join):
        found, sent = {}, {}
        for mesh, count in meshes.items():
            processes = join(mesh)
            sequence = CutSequence(sequence_group(processes))
            for case in CASES:
                for kind, module in (("own", modules[case]), ("rebuilt", views[case])):
                    before = processes.sent
                    made = called(CutTransformer(module, family_of(case), sequence), given[case, count])
                    found[str(mesh), case, kind] = relative(made, wanted[case, count])
                    sent[str(mesh), case, kind] = processes.sent - before
                assert torch.equal(called(modules[case], given[case, count]), wanted[case, count]), "as before"
        return found, sent

    planned = {case: copy.deepcopy(module).to("meta") for case, module in modules.items() if case in PLANNED}
    for rank, (errors, sent) in enumerate(on_ranks(next(iter(meshes)).size, work)):
        assert {key: error for key, error in errors.items() if not error < CLOSE} == {}
        for mesh, rows in meshes.items():
            for case, module in planned.items():
                expected = bytes_in_plan(case, module, given[case, rows], mesh, rank)
                assert expected == sent[str(mesh), case, "own"] > 0, (mesh, case, rank)


def bytes_in_plan(case, module, inputs, mesh, rank):
    """The bytes that one rank sends in a forward on the meta device."""
    on_meta = {name: each.to("meta") if isinstance(each, torch.Tensor) else each for name, each in inputs.items()}
    with cost_meter.runtime(PLAN), cost_meter.meter(PLAN) as meter:
        sequence = CutSequence(sequence_group(TracedRanks(mesh).processes(rank)))
        called(CutTransformer(module, family_of(case), sequence), on_meta)
        return meter.take()["sent_bytes"]


def narrow(case):
    return CASES[case][0]()


def test_two_processes():
    """Heads are exchanged, or keys are gathered."""
    check({Mesh(ulysses=2): 2, Mesh(ring=2): 1}, narrow)


@pytest.mark.slow
@pytest.mark.parametrize(
    "meshes",
    [{Mesh(ulysses=3): 2, Mesh(ring=3): 1}, {Mesh(ulysses=2, ring=2): 2}],
    ids=["three processes", "four processes, for which heads do not divide"],
)
def test_three_heads(meshes):
    assert set(WIDER) == set(CASES)
    check(meshes, wider)


@pytest.mark.slow
def test_compiled_blocks_keep_one_graph_each():
    """Each exchange is an operator in the graph, and no block is compiled again at the next call."""
    cases = ("wan",)
    modules = {case: shaken(narrow(case)) for case in cases}
    wanted = {case: called(modules[case], CASES[case][1](1)) for case in cases}

    def work(join):
        group = sequence_group(join(Mesh(ulysses=2)))
        exchanges = []

        def backend(graph, inputs):
            exchanges.append(sum("sgd" in str(node.target) for node in graph.graph.nodes))
            return graph.forward

        found = {}
        for case, module in modules.items():
            module.compile_repeated_blocks(backend=backend, fullgraph=True, dynamic=False)
            cut = CutTransformer(module, family_of(case), CutSequence(group))
            made = called(cut, CASES[case][1](1))
            compiled = len(exchanges)
            found[case] = relative(made, wanted[case]), relative(called(cut, CASES[case][1](1)), wanted[case])
            assert len(exchanges) == compiled
        return found, set(exchanges)

    for found, exchanges in on_ranks(2, work):
        assert exchanges == {2}, "heads for tokens, and tokens for heads"
        assert all(error < CLOSE for errors in found.values() for error in errors)


def test_the_fastest_attention_is_that_of_the_first_process():
    def work(join):
        processes = join(Mesh(ring=2))
        return first_number(processes, "sequence", processes.rank + 3)

    assert on_ranks(2, work) == [3, 3]
