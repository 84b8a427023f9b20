"""Adapters, then a choice of attention, then compiling: one value of a model among others of the same weights.

The compiler is torch's `eager` backend, which traces and guards as every backend does and then runs what it traced;
test_compile_families.py has the real one.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from helpers.changed import adapters, difference
from helpers.direct import DirectRun, sample
from helpers.gate_pipelines import FAMILIES
from helpers.ours import Pair, decisions
from sgd.graph.contract.node import Here
from sgd.nodes.cache.methods.scm import scm
from sgd.nodes.cache.methods.taylorseer import taylorseer
from sgd.nodes.models.nodes.model_compile import compile
from sgd.nodes.models.nodes.model_lora import lora
from sgd.nodes.models.transforms.attention_transform import Attention

pytest.importorskip("peft")
HERE = Here("gate")


def built(family, folder, layers):
    made: Any = Pair(family, folder / family, layers)
    made.file = adapters(made.pipeline, folder)
    return made


@pytest.fixture(scope="module", params=FAMILIES)
def pair(request, tmp_path_factory):
    return built(request.param, tmp_path_factory.mktemp("chain"), layers=2)


@pytest.fixture(scope="module", params=FAMILIES)
def deep(request, tmp_path_factory):
    """Deep enough for the thresholds in FAMILIES."""
    return built(request.param, tmp_path_factory.mktemp("deep"), layers=6)


@pytest.fixture
def counters(monkeypatch):
    real = torch.compile
    monkeypatch.setattr(torch, "compile", lambda f, *a, mode=None, **o: real(f, *a, backend="eager", **o))
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield torch._dynamo.utils.counters
    torch._dynamo.reset()


def acquired(value):
    value.acquire("transformer", DirectRun())
    return value


def styled(pair, scale=0.7):
    """A value with adapters and an attention that rounds differently from the default."""
    value = lora(DirectRun(), pair.model, str(pair.file), scale=scale)
    return acquired(value.transformed(Attention("transformer", ("_native_math",))))


def test_predicts_as_without_compiling(pair, counters):
    value = styled(pair)
    compiled = acquired(compile(DirectRun(), value))
    run = DirectRun()
    assert difference(pair, pair.model, value) > 1e-3
    assert difference(pair, value, compiled, run=run) <= 1e-5
    assert counters["stats"]["unique_graphs"] > 0
    assert not counters["graph_break"], "what is compiled of a block is all of it"


@pytest.mark.slow
def test_values_of_one_source_do_not_see_each_other(pair, counters):
    """Compiled code belongs to the class of a block, which all values have in common; its guards tell them apart."""
    plain = pair.model
    values = [plain, styled(pair), styled(pair, scale=-0.4)]
    compiled = [acquired(compile(DirectRun(), value)) for value in values]
    for _ in range(2):
        for value, same in zip(values, compiled, strict=True):
            assert difference(pair, value, same, steps=1) <= 1e-5
    apart = [difference(pair, one, other, steps=1) for one, other in zip(values, compiled[1:], strict=False)]
    assert min(apart) > 1e-3
    blocks = [b for name in plain.family.blocks.lists for b in getattr(plain.component("transformer"), name)]
    assert all(block._compiled_call_impl is None for block in blocks)
    parameters = [dict(value.component("transformer").named_parameters()) for value in values]
    adapted = [key for key, tensor in parameters[0].items() if parameters[1][key] is not tensor]
    assert adapted
    assert all(key.endswith(("to_q.weight", "to_k.weight", "to_v.weight")) for key in adapted)


@pytest.mark.parametrize("kind", ["taylorseer", "scm"])
def test_a_gate_decides_and_makes_the_same(deep, counters, kind):
    if kind == "scm":
        gate = scm(HERE, preset="fast")
    else:
        gate = taylorseer(HERE, front_blocks=1, threshold=FAMILIES[deep.family].mixed["dbcache"], warmup_steps=4)
    value = styled(deep)
    compiled = acquired(compile(DirectRun(), value))
    plan, start, branches = deep.prepare()
    runs, made = (DirectRun(), DirectRun()), []
    with torch.no_grad():
        for one, run in zip((value, compiled), runs, strict=True):
            made.append([state.tensor for state in sample(one, plan, start, branches, gate=gate, run=run)])
    expected, found = map(decisions, runs)
    assert {key: d.computed for key, d in found.items()} == {key: d.computed for key, d in expected.items()}
    assert any(d.cached for d in expected.values()), "the gate reuses something"
    for reference, ours in zip(*made, strict=True):
        assert torch.allclose(ours, reference, rtol=0, atol=1e-5 * reference.abs().max().item())
    assert not counters["graph_break"]
