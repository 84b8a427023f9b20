"""Gates on models that were changed: compiled blocks, another attention, adapters."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from helpers.direct import DirectRun
from helpers.gate_pipelines import FAMILIES
from helpers.ours import Pair
from sgd.graph.contract.errors import NodeError
from sgd.graph.contract.node import Here
from sgd.nodes.cache.methods.scm import scm
from sgd.nodes.cache.methods.taylorseer import taylorseer
from sgd.nodes.models.nodes.model_attention import attention
from sgd.nodes.models.nodes.model_compile import compile

HERE = Here("gate")


@pytest.fixture(scope="module", params=FAMILIES)
def pair(request, tmp_path_factory):
    return Pair(request.param, tmp_path_factory.mktemp("gates") / request.param)


def changed(pair, model):
    other = object.__new__(Pair)
    other.family, other.model = pair.family, model
    model.acquire("transformer", DirectRun())
    return other


@pytest.fixture
def compiler(monkeypatch):
    """torch's `eager` backend: traces as every backend does, and runs what it traced."""
    real = torch.compile
    monkeypatch.setattr(torch, "compile", lambda f, *a, mode=None, **o: real(f, *a, backend="eager", **o))
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield torch._dynamo.utils.counters
    torch._dynamo.reset()


def test_compiled_blocks_have_no_break_at_the_gate(pair, compiler):
    gate = taylorseer(HERE, front_blocks=1, threshold=FAMILIES[pair.family].mixed["dbcache"], warmup_steps=4)
    expected = pair.run(gate)
    compiled = changed(pair, compile(DirectRun(), pair.model))
    compiled.run()
    broken = dict(compiler["graph_break"])
    graphs = compiler["stats"]["unique_graphs"]
    made = compiled.run(gate)
    assert dict(compiler["graph_break"]) == broken
    assert compiler["stats"]["unique_graphs"] == graphs, "the gate compiles nothing anew"
    assert graphs > 0
    for ours, reference in zip(made, expected, strict=True):
        assert torch.allclose(ours, reference, rtol=0, atol=1e-5 * reference.abs().max().item())


def test_a_transformer_compiled_whole_is_refused(pair):
    whole = replace(pair.model, transforms=compile(DirectRun(), pair.model, region="whole").transforms)
    whole.acquire("transformer", DirectRun())
    other = object.__new__(Pair)
    other.family, other.model = pair.family, whole
    with pytest.raises(NodeError, match="compiled as a whole"):
        other.run(scm(HERE, preset="fast"))


def test_a_gate_works_on_the_view_of_its_model(pair):
    gate = scm(HERE, preset="fast")
    view = changed(pair, attention(DirectRun(), pair.model, backend="sdpa"))
    assert all(torch.equal(a, b) for a, b in zip(pair.run(gate), view.run(gate), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(pair.run(), view.run(), strict=True))
