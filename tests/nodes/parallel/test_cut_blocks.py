"""A sequence that is cut over processes: each family's transformer gives what diffusers' own forward gives in one."""

from __future__ import annotations

import pytest
import torch
from helpers.ranks import Joined, on_ranks
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
from sgd.graph.contract.processes import Mesh
from sgd.nodes.families import by_name
from sgd.nodes.models.memory.component_views import view
from sgd.nodes.models.rebuilt.rebuilding import rebuild
from sgd.nodes.parallel.cut_blocks import CutSequence, CutTransformer
from sgd.nodes.parallel.sequence_group import sequence_group

CLOSE = 3e-6
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


def check(mesh, build, rebuilt, rows=(1, 2)):
    """Compare one forward of every case on the processes of a mesh with diffusers' own in one process."""
    modules = {case: shaken(build(case)) for case in CASES}
    given = {(case, count): ODD.get(case, CASES[case][1])(count) for case in CASES for count in rows}
    wanted = {key: called(modules[key[0]], inputs) for key, inputs in given.items()}
    views = {case: view(module) for case, module in modules.items()}
    if rebuilt:
        for module in views.values():
            assert rebuild(module, join=False)

    def work(rank):
        processes = Joined(rank, mesh)
        group = sequence_group(processes)
        found = {}
        for (case, count), inputs in given.items():
            cut = CutTransformer(views[case], family_of(case), CutSequence(group))
            found[case, count] = called(cut, inputs)
            assert torch.equal(called(modules[case], inputs), wanted[case, count]), "the module is as before"
        return found, processes.sent

    for made, sent in on_ranks(mesh.size, work):
        assert sent > 0
        assert {key: relative(made[key], wanted[key]) < CLOSE for key in wanted} == dict.fromkeys(wanted, True)


def narrow(case):
    return CASES[case][0]()


@pytest.mark.parametrize("rebuilt", [False, True], ids=["diffusers", "rebuilt"])
def test_two_processes_exchange_heads(rebuilt):
    check(Mesh(ulysses=2), narrow, rebuilt)


def test_keys_are_gathered():
    check(Mesh(ring=2), narrow, rebuilt=True)


def test_heads_that_do_not_divide():
    """Three heads for two processes."""
    assert set(WIDER) == set(CASES)
    check(Mesh(ulysses=2), wider, rebuilt=False, rows=(1,))


@pytest.mark.slow
@pytest.mark.parametrize("mesh", [Mesh(ulysses=3), Mesh(ring=3), Mesh(ulysses=2, ring=2), Mesh(ring=4)], ids=str)
@pytest.mark.parametrize("rebuilt", [False, True], ids=["diffusers", "rebuilt"])
def test_more_processes(mesh, rebuilt):
    check(mesh, wider, rebuilt)
