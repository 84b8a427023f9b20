"""Gates on a GPU: nothing waits for the device that need not, and the decisions are those of the CPU."""

from __future__ import annotations

import warnings
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from helpers.direct import DirectRun, model_of, sample
from helpers.gate_pipelines import FAMILIES, STEPS
from helpers.ours import Pair, decisions
from sgd.graph.contract.node import Here
from sgd.nodes.cache.methods.custom_gate import gate as custom
from sgd.nodes.cache.methods.dbcache import dbcache
from sgd.nodes.cache.methods.fora import fora
from sgd.nodes.cache.methods.magcache import magcache
from sgd.nodes.cache.methods.scm import scm
from sgd.nodes.cache.methods.taylorseer import taylorseer
from sgd.nodes.cache.methods.teacache import teacache
from sgd.nodes.models.nodes.model_load import load
from sgd.nodes.models.nodes.model_offload import offload

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
HERE = Here("gate")
RATIOS = [1.0] + [0.99 - 0.02 * ((index * 7) % 5) for index in range(STEPS - 1)]


class OnGpu(Pair):
    """The same model on the GPU; the pipeline stays on the CPU."""

    def __init__(self, family, folder):
        super().__init__(family, folder)
        self.folder, self.slow, self.model = folder, self.model, model_of(folder, device="cuda")


@pytest.fixture(scope="module", params=FAMILIES)
def pair(request, tmp_path_factory):
    return OnGpu(request.param, tmp_path_factory.mktemp("gates") / request.param)


@contextmanager
def waiting(mode):
    torch.cuda.set_sync_debug_mode(mode)
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def denoise(pair, gate, run=None, **options):
    plan, start, branches = pair.prepare(**options)
    with torch.no_grad():
        return sample(pair.model, plan, start, branches, gate=gate, run=run)


def waits(pair, gate, run=None, **options):
    """How often a loop waits for the device, as torch tells; solvers and models wait by themselves too."""
    plan, start, branches = pair.prepare(**options)
    with torch.no_grad(), waiting("warn"), warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        sample(pair.model, plan, start, branches, gate=gate, run=run)
    return sum("synchronizing CUDA operation" in str(warning.message) for warning in seen)


def test_rows_that_disagree_wait_no_more_often_than_one(pair):
    """One number for each row, and one wait for all; none where the decisions are known ahead."""
    ratios = {"positive": tuple(RATIOS), "negative": tuple(RATIOS[:1] + RATIOS[:0:-1])}
    apart = replace(magcache(HERE, ratios=RATIOS, threshold=0.1, max_consecutive=3, order=1), ratios=ratios)
    batch = {"prompts": ("a red circle moves left", "two small squares"), "seed": (3, 8), "batched": True}
    denoise(pair, None, **batch)
    run = DirectRun()
    assert waits(pair, apart, run, **batch) == waits(pair, None, **batch)
    assert len({each.computed for each in decisions(run).values()}) == 2
    run = DirectRun()
    gate = dbcache(HERE, threshold=FAMILIES[pair.family].mixed["dbcache"], warmup_steps=3)
    count = waits(pair, gate, run, **batch)
    rows = [data["step"] for kind, data in run.events if kind == "gate" and data["distance"] is not None]
    assert count == waits(pair, None, **batch) + len(set(rows))


def test_schedules_known_ahead_wait_for_nothing(pair):
    denoise(pair, None)  # what is made once and kept is made
    plain = waits(pair, None)
    for gate in (
        fora(HERE, every=1),
        magcache(HERE, ratios=RATIOS, threshold=0.1, max_consecutive=0),
        dbcache(HERE, threshold=0.0, warmup_steps=3),
    ):
        assert waits(pair, gate) == plain, gate.kind
    for gate in (
        scm(HERE, preset="fast", order=1),
        fora(HERE, every=3),
        magcache(HERE, ratios=RATIOS, threshold=0.1, max_consecutive=3),
        dbcache(HERE, threshold=1.0, warmup_steps=3),
    ):
        # Blocks that do not run do not wait.
        assert waits(pair, gate) <= plain, gate.kind


def test_others_wait_once_for_each_step_and_branch_that_is_measured(pair):
    run, gate = DirectRun(), dbcache(HERE, threshold=1e-9, warmup_steps=3)  # measures, and reuses nothing
    denoise(pair, None)  # what is made once and kept is made
    plain = waits(pair, None)
    seen = waits(pair, gate, run)
    together = FAMILIES[pair.family].together  # both branches are one call, and one wait
    rows = [data for kind, data in run.events if kind == "gate" and data["distance"] is not None]
    measured = {(row["step"], None if together else row["branch"]) for row in rows}
    assert measured
    assert seen == plain + len(measured)


OFFLOADED: tuple[dict[str, Any], ...] = (
    {},
    {"stream": True},
    {"granularity": "leaf"},
    {"granularity": "leaf", "stream": True},
)


@pytest.mark.parametrize("settings", OFFLOADED, ids=str)
def test_a_gate_on_an_offloaded_transformer(pair, settings):
    """Blocks that are not called are not brought in; those brought ahead for nothing do no harm."""
    gates = [scm(HERE, preset="fast", front_blocks=1)]
    signals = ("modulated", "time", "time_projection") if pair.family == "wan" else ("modulated",)
    gates += [custom(HERE, signal=signal, rule="change", threshold=0.5, warmup_steps=2) for signal in signals]
    run = DirectRun()
    run.device = "cuda"
    value = offload(run, load(run, str(pair.folder), dtype="float32"), **settings)
    for part in ("transformer", "scheduler"):
        value.acquire(part, run)
    for gate in gates:
        expected = denoise(pair, gate)
        plan, start, branches = pair.prepare()
        with torch.no_grad():
            made = sample(value, plan, start, branches, gate=gate)
        assert all(torch.equal(a.tensor, b.tensor) for a, b in zip(made, expected, strict=True)), gate.signal
        assert {p.device.type for p in value.component("transformer").parameters()} == {"cpu"}, gate.signal
    value.release("transformer")


def test_decisions_are_those_of_the_cpu(pair):
    threshold = FAMILIES[pair.family].mixed["dbcache"]
    gates = [dbcache(HERE, threshold=threshold, warmup_steps=3), taylorseer(HERE, threshold=threshold, warmup_steps=5)]
    if pair.family == "wan":
        gates.append(teacache(HERE, coefficients=[1.0, 0.0], threshold=FAMILIES["wan"].mixed["time"]))
    for gate in gates:
        here, there = DirectRun(), DirectRun()
        denoise(pair, gate, run=there)
        plan, start, branches = Pair.prepare(_on_cpu(pair))
        with torch.no_grad():
            sample(pair.slow, plan, start, branches, gate=gate, run=here)
        assert {name: d.computed for name, d in decisions(here).items()} == {
            name: d.computed for name, d in decisions(there).items()
        }


def _on_cpu(pair):
    other = object.__new__(Pair)
    other.family, other.model = pair.family, pair.slow
    return other


def test_a_gate_that_always_computes_is_none(pair):
    plain = denoise(pair, None)
    for gate in (dbcache(HERE, threshold=0.0), taylorseer(HERE, threshold=1e-9, order=2)):
        gated = denoise(pair, gate)
        assert all(torch.equal(a.tensor, b.tensor) for a, b in zip(plain, gated, strict=True))
