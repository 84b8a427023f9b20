"""Gates on a transformer whose blocks are brought to the device in groups. Where host and device are one,
tests/helpers/offloading.py watches what would have moved; on a GPU: test_cuda.py."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from helpers import node_facts
from helpers.direct import DirectRun, model_of, sample
from helpers.gate_pipelines import FAMILIES
from helpers.offloading import watching
from helpers.ours import Pair, decisions
from sgd.graph.contract.errors import NodeError
from sgd.graph.contract.node import Here
from sgd.nodes.cache.gate import Gate
from sgd.nodes.cache.methods.cache_dit_options import library
from sgd.nodes.cache.methods.custom_gate import gate as custom
from sgd.nodes.cache.methods.dbcache import dbcache
from sgd.nodes.cache.methods.easycache import easycache
from sgd.nodes.cache.methods.scm import scm
from sgd.nodes.denoiser import predict
from sgd.nodes.models.memory.offloading import Offload
from sgd.nodes.models.nodes.model_offload import offload

HERE = Here("gate")


@pytest.fixture(scope="module", params=["wan", "hunyuan-video"])
def pair(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("gates") / request.param
    made: Any = Pair(request.param, folder)
    made.folder = folder
    made.most_of = {}
    return made


def gated(pair, gate, blocks, **options):
    """A gated run with groups of so many blocks: latents, what was watched, and the most bytes without a gate."""
    model = model_of(pair.folder, "scheduler").transformed(Offload("transformer", "blocks", blocks))
    model.acquire("transformer", DirectRun())
    plan, start, branches = pair.prepare(**options)
    with torch.no_grad(), watching(model.component("transformer")) as watched:
        states = sample(model, plan, start, branches, gate=gate)
    kind = (blocks, repr(options))
    if kind not in pair.most_of:
        with torch.no_grad(), watching(model.component("transformer")) as plain:
            sample(model, plan, start, branches)
        pair.most_of[kind] = plain.most
    return [state.tensor for state in states], watched, pair.most_of[kind]


# Lists of 6 blocks: Wan has one, HunyuanVideo two.
@pytest.mark.parametrize(("blocks", "front", "back"), [(1, 1, 1), (2, 2, 2), (2, 0, 0), (3, 3, 0), (4, 4, 0)])
def test_whole_groups_are_passed_over(pair, blocks, front, back):
    gate = scm(HERE, preset="fast", front_blocks=front, back_blocks=back)
    states, watched, most = gated(pair, gate, blocks)
    assert not watched.early
    assert watched.most <= most
    assert not +watched.inside, "nothing stays on the device"
    assert all(torch.equal(a, b) for a, b in zip(states, pair.run(gate), strict=True))


def test_a_group_comes_in_for_the_rows_that_are_computed(pair):
    """Two clips decide apart; every group is brought in as for one clip."""
    threshold = 0.8 * FAMILIES[pair.family].mixed["dbcache"]
    gate = dbcache(HERE, threshold=threshold, warmup_steps=3, front_blocks=2)
    batch = {"prompts": ("a red circle moves left", "two small squares"), "seed": (3, 8), "batched": True}
    states, watched, most = gated(pair, gate, 2, **batch)
    assert not watched.early
    assert watched.most <= most
    assert not +watched.inside, "nothing stays on the device"
    run = DirectRun()
    assert all(torch.equal(a, b) for a, b in zip(states, pair.run(gate, run=run, **batch), strict=True))
    assert len({each.computed for each in decisions(run).values()}) > 1, "else this test says nothing"


@pytest.mark.parametrize(("blocks", "front", "back"), [(2, 0, 1), (4, 1, 1), (2, 1, 0), (4, 4, 1)])
def test_a_parted_group_is_refused(pair, blocks, front, back):
    gate = scm(HERE, preset="fast", front_blocks=front, back_blocks=back)
    with pytest.raises(NodeError, match="would skip a part of a group"):
        gated(pair, gate, blocks)


def handed(**options):
    return library(HERE, max_warmup_steps=3, **options)


@pytest.mark.slow
def test_cache_dit_passes_over_whole_groups(pair):
    """It decides for each of HunyuanVideo's lists."""
    mixed = {"residual_diff_threshold": FAMILIES[pair.family].mixed["dbcache"]}
    gate = handed(Fn_compute_blocks=2, Bn_compute_blocks=2, **mixed)
    states, watched, most = gated(pair, gate, 2)
    assert not watched.early
    assert watched.most <= most
    assert all(torch.equal(a, b) for a, b in zip(states, pair.run(gate), strict=True))
    for wrong in ({"Fn_compute_blocks": 1}, {"Fn_compute_blocks": 2, "Bn_compute_blocks": 1}):
        with pytest.raises(NodeError, match="would skip a part of a group"):
            gated(pair, handed(**wrong), 2)
    prune = handed(cache_type="DBPrune", Fn_compute_blocks=2, Bn_compute_blocks=2, **mixed)
    with pytest.raises(NodeError, match="DBPrune decides for each block"):
        gated(pair, prune, 2)
    _, watched, _ = gated(pair, prune, 1)
    assert not watched.early


def test_a_gate_that_passes_over_the_whole_model_parts_none(pair):
    threshold = FAMILIES[pair.family].mixed["easycache"]
    _, watched, most = gated(pair, easycache(HERE, threshold=threshold, warmup_steps=2), 4)
    assert watched.most <= most
    assert not watched.early


SIGNALS = [(family, "modulated") for family in FAMILIES] + [("wan", "time"), ("wan", "time_projection")]


@pytest.mark.parametrize(("family", "signal"), SIGNALS, ids=[" ".join(case) for case in SIGNALS])
def test_a_compared_block_is_brought_in(family, signal, tmp_path):
    """Signals are taken from inside of the first block, or of the timestep's embedding, without calling either."""
    pair = Pair(family, tmp_path)
    gate = custom(HERE, signal=signal, rule="change", threshold=0.5, warmup_steps=2)
    expected = pair.outcome(gate)
    plan, start, branches = pair.prepare()
    for granularity in ("blocks", "leaf"):
        model, run = model_of(tmp_path, "scheduler").transformed(Offload("transformer", granularity)), DirectRun()
        model.acquire("transformer", run)
        view = model.component("transformer")
        forwards = {part: part.forward for part in view.modules()}
        with torch.no_grad(), watching(view) as watched:
            states = sample(model, plan, start, branches, gate=gate, run=run)
        assert not watched.early
        assert not +watched.inside
        assert all(part.forward == forward for part, forward in forwards.items()), "hooks are as they were"
        assert decisions(run) == expected.decisions
        assert all(torch.equal(a.tensor, b) for a, b in zip(states, expected.latents, strict=True))


def found(gate, **settings):
    """What `denoiser.predict` has to say of a gate before anything loads."""
    model = {
        "family": "hunyuan-video",
        "configs": {"transformer": {"num_layers": 6, "num_single_layers": 5}},
        "components": {"transformer": "HunyuanVideoTransformer3DModel"},
    }
    component = settings.pop("component", "transformer")
    defaults = {"granularity": "blocks", "blocks": 1, "stream": False, "low_memory": False}
    model = node_facts.describe(offload, model=model, component=component, **(defaults | settings))
    return [(p.code, p.parameter) for p in node_facts.check(predict, model=model, gate={"gate": gate})]


def test_it_is_said_before_anything_loads():
    def gate(**options) -> Gate:
        return scm(HERE, mask="1100110011", **options)

    wrong = [("unsupported", "gate")]
    assert found(gate(front_blocks=1, back_blocks=1), blocks=2) == wrong  # the last list's groups are 2, 2 and 1
    assert found(gate(front_blocks=2, back_blocks=1), blocks=2) == []
    assert found(gate(front_blocks=2, back_blocks=2), blocks=2) == wrong
    assert found(gate(front_blocks=7, back_blocks=1), blocks=2) == wrong
    assert found(gate(front_blocks=8, back_blocks=1), blocks=2) == []
    assert found(gate(front_blocks=6, back_blocks=5), blocks=2) == [("bad-value", "gate")]  # none between
    assert found(gate(front_blocks=2, back_blocks=1, stacks="separate"), blocks=2) == wrong  # 1 of the first list's 6
    assert found(gate(front_blocks=2, back_blocks=0, stacks="separate"), blocks=2) == []
    assert found(gate(front_blocks=1, back_blocks=1)) == []
    assert found(gate(front_blocks=1, back_blocks=1), granularity="leaf") == []
    assert found(gate(front_blocks=1, back_blocks=1), component="text_encoder", blocks=2) == []
