"""Values that rebuilt blocks keep in a loop: computed once, and for no other prompt, branch, run or model."""

from __future__ import annotations

import gc
import weakref
from dataclasses import replace
from typing import Any

import pytest
import torch
from helpers.direct import DirectRun
from helpers.gate_pipelines import FAMILIES
from helpers.ours import Pair, states
from sgd.graph.contract.node import Here
from sgd.nodes import cfg, denoiser, schedule
from sgd.nodes.cache.methods.easycache import easycache
from sgd.nodes.cache.methods.taylorseer import taylorseer
from sgd.nodes.cache.state import GateState
from sgd.nodes.cfg import GuiderState
from sgd.nodes.models.memory.offloading import Offload
from sgd.nodes.models.rebuilt.loop_values import LoopValues, Values
from sgd.nodes.models.transforms.optimize_transform import Optimize
from sgd.nodes.schedule import SchedulerState

HERE = Here("gate")
OTHER = "two blue squares meet"


@pytest.fixture(scope="module", params=FAMILIES)
def pair(request, tmp_path_factory):
    return Pair(request.param, tmp_path_factory.mktemp("kept") / request.param, layers=3)


@pytest.fixture(scope="module")
def wan(tmp_path_factory):
    return Pair("wan", tmp_path_factory.mktemp("kept") / "wan", layers=2)


def farthest(found: list[torch.Tensor], wanted: list[torch.Tensor]) -> float:
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(found, wanted, strict=True))


def test_each_value_is_made_once_and_dropped_after_its_last_use():
    made = []
    values = Values()
    assert [values.of("a", lambda: made.append(1)) for _ in range(3)] == [None] * 3
    assert (len(made), len(values)) == (1, 1)
    twice = Values(uses=2)
    assert [twice.of("a", lambda: made.append(1) or len(made)) for _ in range(3)] == [2, 2, 3]


def test_values_belong_to_a_transformer_branches_prompts_and_sizes():
    held, one, other = LoopValues(), object(), object()
    prompt: dict[str, Any] = {}
    first = held.of(one, ("positive",), (prompt,), 1)
    assert held.of(one, ("positive",), (prompt,), 1) is first
    assert held.of(one, ("negative",), (prompt,), 1) is not first
    assert held.of(one, ("positive",), (prompt,), 1) is first
    for transformer, source, rows in ((one, {}, 1), (one, prompt, 2), (other, prompt, 1)):
        assert held.of(transformer, ("positive",), (source,), rows) is not first
        first = held.of(one, ("positive",), (prompt,), 1)


def test_runs_in_turn_make_what_each_makes_alone(pair):
    """Another prompt, another size and another number of clips, on one view."""
    value = pair.rebuilt()
    prepared = [
        pair.prepare(steps=3),
        pair.prepare(steps=3, prompts=(OTHER,)),
        pair.prepare(steps=3, size=48),
        pair.prepare(steps=3, prompts=(OTHER, "red"), seed=[1, 2]),
    ]
    for one in prepared:
        assert farthest(states(value, one), states(pair.model, one)) < 1e-5
    value.release("transformer")


@pytest.mark.parametrize("method", ["taylorseer", pytest.param("easycache", marks=pytest.mark.slow)])
def test_with_gates_that_leave_out_rows(pair, method):
    """Two clips in one batch decide apart, so that some calls have a part of the rows."""
    makes = {
        "taylorseer": lambda: taylorseer(HERE, front_blocks=1, threshold=0.2, warmup_steps=3),
        "easycache": lambda: easycache(HERE, threshold=FAMILIES[pair.family].mixed["easycache"]),
    }
    value = pair.rebuilt()
    prepared = pair.prepare(steps=8, prompts=(OTHER, "red"), seed=[1, 2], batched=True)
    gate = makes[method]()
    assert farthest(states(value, prepared, gate=gate), states(pair.model, prepared, gate=gate)) < 1e-4
    value.release("transformer")


def steps(model: Any, prepared: Any, change: Any = None) -> list[torch.Tensor]:
    """Predictions of both branches; `change` gives other branches from the second step on."""
    plan, now, branches = prepared
    scheduler, guider, gates = SchedulerState(), GuiderState(), GateState()
    made: list[Any] = []
    with torch.no_grad():
        for number, step in enumerate(plan):
            branches = change if number and change is not None else branches
            predictions = denoiser.predict(model, now, step, branches, gates, DirectRun())
            made += predictions.branches.values()
            now = schedule.step(plan, step, now, cfg.merge(predictions, branches, guider), scheduler)
    return made


def test_a_prompt_that_changes_within_a_loop_is_taken(wan):
    value = wan.rebuilt()
    *_, other = wan.prepare(steps=3, prompts=(OTHER,))
    prepared = wan.prepare(steps=3)
    assert farthest(steps(value, prepared, other), steps(wan.model, prepared, other)) < 1e-5
    swapped = replace(
        prepared[2],
        conditioning=replace(
            prepared[2].conditioning,
            positive=prepared[2].conditioning.negative,
            negative=prepared[2].conditioning.positive,
        ),
    )
    assert farthest(steps(value, prepared, swapped), steps(wan.model, prepared, swapped)) < 1e-5
    value.release("transformer")


@pytest.fixture
def products(monkeypatch):
    """Names of the layers of cross attention and of the text embedding whose weights were read."""
    from sgd.nodes.models.rebuilt import wan_blocks

    seen: list[str] = []
    original = wan_blocks.WanBlock._keys_values

    def counted(self: Any, context: torch.Tensor, *args: Any) -> Any:
        seen.append("keys and values")
        return original(self, context, *args)

    monkeypatch.setattr(wan_blocks.WanBlock, "_keys_values", counted)
    return seen


def test_keys_and_values_of_text_are_computed_once_a_prompt(wan, products):
    value = wan.rebuilt()
    embedder = value.component("transformer").condition_embedder.text_embedder
    embedded = []
    handle = embedder.linear_1.register_forward_hook(lambda *_: embedded.append(1))
    states(value, wan.prepare(steps=4))
    assert len(products) == 2 * 2, "for each branch and block"
    assert len(embedded) == 2
    states(value, wan.prepare(steps=4))
    assert len(products) == 2 * 2 * 2, "another loop computes its own"
    handle.remove()
    value.release("transformer")


def test_offloading_keeps_nothing(wan, products):
    value = wan.rebuilt(Offload("transformer", "blocks"))
    prepared = wan.prepare(steps=2)
    assert farthest(states(value, prepared), states(wan.model, prepared)) < 1e-5
    assert len(products) == 2 * 2 * 2
    value.release("transformer")


def test_two_experts(tmp_path):
    from helpers import gate_pipelines
    from helpers.direct import model_of

    made = gate_pipelines.build("wan", 2, experts=2, boundary_ratio=0.9)
    made.save_pretrained(tmp_path / "experts")
    model = model_of(tmp_path / "experts")
    source = Pair.__new__(Pair)
    source.family, source.model = "wan", model
    prepared = source.prepare(steps=4)
    from sgd.nodes.models.nodes.model_expert import expert

    below = expert(model, component="transformer_2")
    values = []
    for value, name in ((model, "transformer"), (below, "transformer_2")):
        fast = value.transformed(Optimize(name, True, ()))
        fast.acquire("transformer", DirectRun())
        values.append(fast)
    wanted = states(model, prepared, model_below=below, boundary=0.9)
    assert farthest(states(values[0], prepared, model_below=values[1], boundary=0.9), wanted) < 1e-5
    for value in values:
        value.release("transformer")


def test_nothing_outlives_the_loop(wan):
    value = wan.rebuilt()
    plan, now, branches = wan.prepare(steps=1)
    gates = GateState()
    with torch.no_grad():
        denoiser.predict(value, now, next(iter(plan)), branches, gates, DirectRun())
    once = value.component("transformer").once
    assert once.call is None
    assert len(gates.values) > 0
    kept = [v for _, _, held in gates.values._held.values() for v, _ in held._made.values()]
    alive = [weakref.ref(t) for v in kept for t in (v if isinstance(v, tuple) else [v])]
    gates.end()
    del kept
    gc.collect()
    assert alive
    assert not [ref for ref in alive if ref() is not None]
    value.release("transformer")


def test_the_peak_of_a_plan_has_the_kept_values(wan):
    from helpers.direct import model_of
    from sgd.nodes.support import cost_meter

    peaks = []
    for uses in (True, False):
        run = DirectRun()
        run.device, run.planning = "meta", True
        model = model_of(wan.model.weights.repository.folder, "transformer", kind="meta", device="meta")
        value = model.transformed(Optimize("transformer", True, ()))
        value.acquire("transformer", run)
        plan, start, branches = wan.prepare(steps=1)
        sides = {
            side: {name: t.to("meta") for name, t in getattr(branches.conditioning, side).items()}
            for side in ("positive", "negative")
        }
        on_meta = replace(branches, conditioning=replace(branches.conditioning, **sides))
        latents = replace(start, tensor=start.tensor.to("meta"))
        gates = GateState()
        with cost_meter.runtime(run), cost_meter.meter(run) as meter:
            made = denoiser.predict(value, latents, next(iter(plan)), on_meta, gates, run)
            if not uses:
                gates.end()
            del made
            peaks.append(meter.live)
    config = wan.model.config("transformer")
    width = config["num_attention_heads"] * config["attention_head_dim"]
    length = branches.conditioning.positive["encoder_hidden_states"].shape[1]
    assert peaks[0] - peaks[1] >= 2 * 2 * 2 * length * width * 4, "keys and values of both branches and blocks"
