"""States of the standard library, cut after every step and restored from a file: latents are equal bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.denoise_loop import STEPS, Case, Loop, new_states, through_a_file
from helpers.gate_pipelines import FAMILIES
from helpers.ours import Pair
from sgd.graph.contract.node import Here, Unkept
from sgd.nodes.cache.gate import Gate
from sgd.nodes.cache.methods.cache_dit_options import library
from sgd.nodes.cache.methods.dbcache import dbcache
from sgd.nodes.cache.methods.easycache import easycache
from sgd.nodes.cache.methods.fora import fora
from sgd.nodes.cache.methods.magcache import magcache
from sgd.nodes.cache.methods.scm import scm
from sgd.nodes.cache.methods.taylorseer import taylorseer
from sgd.nodes.cache.methods.teacache import teacache
from sgd.nodes.cache.tuning.planned_gate import with_plan
from sgd.nodes.cache.tuning.step_plan import StepPlan
from sgd.nodes.cache.tuning.tuned_table import KIND
from sgd.nodes.values import Latents

HERE = Here("gate")


def threshold(family: str, method: str) -> float:
    return FAMILIES[family].mixed.get(method, 0.3)


DBCACHE = Case(lambda f: dbcache(HERE, threshold=threshold(f, "dbcache"), warmup_steps=2))
PLAN = StepPlan(
    "11010010",
    {2: (1.5, -0.5), 4: (1.25, -0.25), 5: (1.5, -0.5), 7: (1.2, -0.2)},
    {3: (0.5, -0.7, 0.2), 6: (0.9, -1.4, 0.5)},
)
"""A plan of a tuned gate, with a correction at the steps that end a gap."""
TUNED = Case(lambda _: with_plan(Gate(KIND, signal="model", name="gate"), PLAN), scheduler="euler")
CASES = {
    **{name: Case(scheduler=name) for name in ("auto", "unipc", "euler", "dpm++", "deis")},
    "cfg": Case(split={"rescale": 0.5}),
    "apg": Case(split={"guider": "apg", "momentum": -0.5, "norm_threshold": 5.0}),
    "cfg_zero_star": Case(split={"guider": "cfg_zero_star", "zero_init_steps": 1}),
    "tcfg": Case(split={"guider": "tcfg"}),
    "mag": Case(split={"guider": "mag"}),
    "fora": Case(lambda _: fora(HERE, every=3)),
    "dbcache": DBCACHE,
    "dbcache-batched": Case(DBCACHE.gate, split={"batched": True}, clips=2),
    "dbcache-interval": Case(DBCACHE.gate, split={"start": 0.25, "stop": 0.75}),
    "taylorseer": Case(lambda f: taylorseer(HERE, order=2, threshold=threshold(f, "dbcache"), warmup_steps=3)),
    "taylorseer-batched": Case(
        lambda f: taylorseer(HERE, order=1, threshold=threshold(f, "dbcache"), warmup_steps=2),
        split={"batched": True},
        clips=2,
    ),
    "scm": Case(lambda _: scm(HERE, mask="11101001")),
    "magcache": Case(lambda _: magcache(HERE, ratios=[1.0, *[0.97] * 7], threshold=0.08, retention=0.25)),
    "teacache": Case(lambda _: teacache(HERE, coefficients=[1.0, 0.0], threshold=0.4, signal="modulated")),
    "teacache-time": Case(lambda _: teacache(HERE, coefficients=[1.0, 0.0], threshold=2.0, signal="time")),
    "easycache": Case(lambda f: easycache(HERE, threshold=threshold(f, "easycache"), warmup_steps=2)),
    "easycache-order": Case(lambda _: easycache(HERE, threshold=1.0, warmup_steps=3, order=1), split={"batched": True}),
    "tuned": TUNED,
    "tuned-batched": replace(TUNED, split={"batched": True}, clips=2),
    "experts": Case(DBCACHE.gate, experts=True),
}
DEFAULT = ("unipc", "apg", "taylorseer-batched", "easycache", "tuned-batched", "experts")


def check(pair: Pair, case: Case, tmp_path: Path) -> None:
    loop = Loop(pair, case)
    states = new_states()
    snapshots: list[Any] = []

    def kept(now: Latents) -> None:
        snapshots.append(([state.snapshot() for state in states], now, loop.plan, len(loop.run.events)))

    expected = loop.steps(loop.noise, 0, states, kept)
    events = loop.run.events
    if case.gate is not None and pair.family == "wan":
        assert {data["computed"] for kind, data in events if kind == "gate"} == {True, False}
    # Only now: a state that writes into a tensor has changed the earlier snapshots.
    for step, (held, now, plan, seen) in enumerate(snapshots, 1):
        held, now, plan = through_a_file((held, now, plan), tmp_path / "s.safetensors")
        again = Loop(pair, case)
        again.plan = plan
        restored = new_states()
        for state, snapshot in zip(restored, held, strict=True):
            state.restore(snapshot, again.run)
        found = again.steps(now, step, restored, lambda _: None)
        assert torch.equal(found.tensor, expected.tensor), f"cut after step {step}"
        assert again.run.events == events[seen:], f"cut after step {step}"


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Pair]:
    made: dict[str, Pair] = {}

    def pair(family: str) -> Pair:
        if family not in made:
            made[family] = Pair(family, tmp_path_factory.mktemp("pairs") / family, layers=4)
        return made[family]

    return pair


@pytest.mark.parametrize("name", DEFAULT)
def test_a_cut_after_any_step_changes_nothing(pairs: Callable[[str], Pair], tmp_path: Path, name: str) -> None:
    check(pairs("wan"), CASES[name], tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in CASES if name not in DEFAULT])
def test_a_cut_after_any_step_changes_nothing_for_others(
    pairs: Callable[[str], Pair], tmp_path: Path, name: str
) -> None:
    check(pairs("wan"), CASES[name], tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("family", [name for name in FAMILIES if name != "wan"])
@pytest.mark.parametrize("name", ["auto", "dbcache", "fora", "easycache"])
def test_every_family(pairs: Callable[[str], Pair], tmp_path: Path, family: str, name: str) -> None:
    check(pairs(family), CASES[name], tmp_path)


def test_the_state_of_cache_dit_cannot_be_kept(pairs: Callable[[str], Pair]) -> None:
    loop = Loop(
        pairs("wan"),
        Case(
            lambda _: library(
                HERE, Fn_compute_blocks=1, Bn_compute_blocks=0, residual_diff_threshold=0.1, max_warmup_steps=1
            )
        ),
    )
    states = new_states()
    found: list[Any] = []
    loop.steps(loop.noise, 0, states, lambda _: found.append(states[0].snapshot()))
    assert found == [Unkept("gate gate: the cache-dit package keeps its memory to itself")] * STEPS


def test_tensors_come_back_with_their_strides_and_numbers(tmp_path: Path) -> None:
    torch.manual_seed(0)
    base = torch.randn(2, 3, 4, 5)
    given = {
        "plain": base,
        "permuted": base.permute(0, 2, 3, 1),
        "channels last": base.contiguous(memory_format=torch.channels_last),
        "part": base[:, 1:, :, ::2],
        "bfloat16": base.bfloat16(),
        "float8": base.to(torch.float8_e4m3fn),
        "scalar": torch.tensor(7),
        "empty": torch.empty(0, 3),
        "bool": base > 0,
        "not finite": torch.tensor([float("nan"), float("inf"), -0.0]),
    }
    found = through_a_file(given, tmp_path / "s.safetensors")
    for name, tensor in given.items():
        made = found[name]
        assert (made.dtype, made.shape) == (tensor.dtype, tensor.shape), name
        assert made.contiguous().reshape(-1).view(torch.uint8).equal(tensor.contiguous().reshape(-1).view(torch.uint8))
        if name != "part":
            assert made.stride() == tensor.stride(), name
    shared = (base, [base])
    one, (two,) = through_a_file(shared, tmp_path / "s.safetensors")
    assert one is two
