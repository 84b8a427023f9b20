"""Gates on models that were changed: compiled blocks, another attention, adapters."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

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
    expected = pair.run(gate, **pair.one_by_one)
    compiled = changed(pair, compile(DirectRun(), pair.model))
    compiled.run(**pair.one_by_one)
    broken = dict(compiler["graph_break"])
    graphs = compiler["stats"]["unique_graphs"]
    made = compiled.run(gate, **pair.one_by_one)
    assert dict(compiler["graph_break"]) == broken
    assert compiler["stats"]["unique_graphs"] == graphs, "the gate compiles nothing anew"
    assert graphs > 0
    for ours, reference in zip(made, expected, strict=True):
        assert torch.allclose(ours, reference, rtol=0, atol=1e-5 * reference.abs().max().item())


@pytest.mark.slow
@pytest.mark.parametrize("dynamic", [False, True])
def test_a_batch_whose_rows_decide_apart_is_compiled_for_each_number_of_rows(pair, compiler, dynamic):
    """With `dynamic: true` for one row, and at most once more for all other numbers."""
    if pair.family not in ("wan", "z-image"):
        pytest.skip("two families are enough")
    prompts = ("a red circle moves left", "two small blue squares and a green triangle")
    batch: dict[str, Any] = {"prompts": prompts, "seed": (3, 8), "batched": True, "padding": "cut"}
    gate = taylorseer(HERE, order=2, threshold=FAMILIES[pair.family].mixed["dbcache"], warmup_steps=4, back_blocks=1)
    numbers, blocks = set(), getattr(pair.model.component("transformer"), FAMILIES[pair.family].lists[0])
    handle = blocks[1].register_forward_pre_hook(lambda module, args: numbers.add(len(args[0])))
    expected = pair.run(gate, **batch)
    handle.remove()
    assert len(numbers - {1}) > 1, "else this test says nothing"
    compiled = changed(pair, compile(DirectRun(), pair.model, dynamic=dynamic))
    compiled.run(**batch)
    broken, graphs = dict(compiler["graph_break"]), compiler["stats"]["unique_graphs"]
    made = compiled.run(gate, **batch)
    assert dict(compiler["graph_break"]) == broken
    new = compiler["stats"]["unique_graphs"] - graphs
    assert new <= 2 if dynamic else new == len(numbers - {4})
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
