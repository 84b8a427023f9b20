"""`batched` of `cfg.split` with rebuilt blocks: both branches in one buffer, and the choice of `auto`."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import torch
from helpers.direct import DirectRun, sample
from helpers.ours import Pair, decisions
from sgd.graph.contract.node import Here
from sgd.nodes import cfg, denoiser
from sgd.nodes.batched_guidance import batched
from sgd.nodes.cache.methods.cache_dit_options import library
from sgd.nodes.cache.methods.taylorseer import taylorseer
from sgd.nodes.cache.state import GateState
from sgd.nodes.families import by_name
from sgd.nodes.models.memory.offloading import Offload
from sgd.nodes.models.rebuilt import qwen_blocks
from sgd.nodes.models.transforms.optimize_transform import Optimize

HERE = Here("gate")
LONGER = "a red circle moves left over a green field, and then it comes back"


@pytest.fixture(scope="module")
def qwen(tmp_path_factory):
    return Pair("qwen-image", tmp_path_factory.mktemp("qwen") / "model", layers=6)


@pytest.fixture(scope="module")
def wan(tmp_path_factory):
    return Pair("wan", tmp_path_factory.mktemp("wan") / "model", layers=3)


@pytest.fixture
def rebuilt(request):
    """A function that gives a pair's model rebuilt blocks, and offloads it on request."""
    made = []

    def of(pair: Pair, *more: Any) -> Any:
        value = pair.model.transformed(Optimize("transformer", True, ()))
        for transform in more:
            value = value.transformed(transform)
        value.acquire("transformer", DirectRun())
        made.append(value)
        return value

    yield of
    for value in made:
        value.release("transformer")


@pytest.fixture
def layouts(monkeypatch):
    """The layouts of all packed blocks."""
    seen = []
    original = qwen_blocks.PackedStreams.__call__

    def counted(self: Any, x: Any, layout: Any, *args: Any) -> Any:
        seen.append(layout)
        return original(self, x, layout, *args)

    monkeypatch.setattr(qwen_blocks.PackedStreams, "__call__", counted)
    return seen


def states(model: Any, prepared: Any, run: DirectRun | None = None, **options: Any) -> list[torch.Tensor]:
    plan, start, branches = prepared
    with torch.no_grad():
        return [state.tensor for state in sample(model, plan, start, branches, run=run, **options)]


def farthest(found: list[torch.Tensor], wanted: list[torch.Tensor]) -> float:
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(found, wanted, strict=True))


@pytest.mark.parametrize("prompt", ["red", LONGER], ids=["a shorter prompt", "a longer prompt"])
def test_auto_puts_both_branches_of_qwen_image_in_one_buffer(qwen, rebuilt, layouts, prompt):
    run = DirectRun()
    alone = qwen.prepare(steps=3, prompts=(prompt,), batched=False)
    together = qwen.prepare(steps=3, prompts=(prompt,), batched="auto")
    wanted = states(qwen.model, alone)
    assert farthest(states(rebuilt(qwen), together, run), wanted) < 1e-6
    assert run.details["guidance"] == "batched: the weights for text are read once"
    lengths = [int(side["lengths"]) for side in (alone[2].conditioning.positive, alone[2].conditioning.negative)]
    assert lengths[0] != lengths[1]
    assert {layout.texts for layout in layouts} == {tuple(lengths)}, "no token is padding"
    assert len(layouts) == 3 * 6


@pytest.mark.parametrize("clips", [pytest.param(2, marks=pytest.mark.slow), 3])
def test_clips_with_prompts_of_all_lengths(qwen, rebuilt, layouts, clips):
    prompts = (LONGER, "red", "a blue square")[:clips]
    options: dict[str, Any] = {"steps": 2, "prompts": prompts, "seed": list(range(clips))}
    wanted = states(qwen.model, qwen.prepare(batched=False, **options))
    assert farthest(states(rebuilt(qwen), qwen.prepare(batched=True, **options)), wanted) < 1e-6
    assert {len(layout.texts) for layout in layouts} == {2 * clips}
    assert farthest(states(rebuilt(qwen), qwen.prepare(batched=False, **options)), wanted) < 1e-6


def test_prompts_of_equal_length(qwen, rebuilt, layouts):
    plan, start, branches = qwen.prepare(steps=2, batched=True)
    same = replace(branches.conditioning, negative=branches.conditioning.positive)
    prepared = plan, start, replace(branches, conditioning=same)
    assert farthest(states(rebuilt(qwen), prepared), states(qwen.model, prepared)) < 1e-6
    assert {layout.padding(max(layout.texts)) for layout in layouts} == {None}


def test_a_gate_keeps_a_memory_for_each_branch(qwen, rebuilt, layouts):
    """The branches reuse different steps, so that some calls have the rows of one branch only."""
    gate = taylorseer(HERE, front_blocks=1, back_blocks=1, threshold=0.3645, warmup_steps=2)
    runs, found = [DirectRun(), DirectRun()], []
    for model, choice, run in ((qwen.model, False, runs[0]), (rebuilt(qwen), "auto", runs[1])):
        found.append(states(model, qwen.prepare(batched=choice), run, gate=gate))
    expected, made = map(decisions, runs)
    assert {key: d.computed for key, d in made.items()} == {key: d.computed for key, d in expected.items()}
    assert expected["positive"].computed != expected["negative"].computed
    assert {len(layout.texts) for layout in layouts} == {1, 2}
    assert farthest(found[1], found[0]) < 1e-5


def test_offloaded(qwen, rebuilt):
    prepared = qwen.prepare(steps=2, batched="auto")
    value = rebuilt(qwen, Offload("transformer", "blocks"))
    assert farthest(states(value, prepared), states(qwen.model, qwen.prepare(steps=2, batched=False))) < 1e-6


def test_guidance_in_some_steps_only(qwen, rebuilt):
    options: dict[str, Any] = {"steps": 4, "start": 0.25, "stop": 0.75}
    wanted = states(qwen.model, qwen.prepare(batched=False, **options))
    assert farthest(states(rebuilt(qwen), qwen.prepare(batched="auto", **options)), wanted) < 1e-6


def test_a_plan_takes_the_same_way(qwen, layouts):
    """Shapes on the meta device."""
    from helpers.direct import model_of

    run = DirectRun()
    run.device, run.planning = "meta", True
    source = qwen.model.weights.repository.folder
    model = model_of(source, "transformer", kind="meta", device="meta")
    value = model.transformed(Optimize("transformer", True, ()))
    value.acquire("transformer", run)
    _, start, branches = qwen.prepare(steps=1, batched="auto")
    plan, *_ = qwen.prepare(steps=1)
    texts = {side: dict(getattr(branches.conditioning, side)) for side in ("positive", "negative")}
    sides = {side: text | {"embeddings": text["embeddings"].to("meta")} for side, text in texts.items()}
    on_meta = replace(branches, conditioning=replace(branches.conditioning, **sides))
    latents = replace(start, tensor=start.tensor.to("meta"))
    made = denoiser.predict(value, latents, next(iter(plan)), on_meta, GateState(), run)
    assert {t.shape for t in made.branches.values()} == {start.tensor.shape}
    assert run.details["guidance"].startswith("batched")
    assert len(layouts) == 6


@pytest.mark.parametrize("choice", [True, False])
def test_wan_equals_diffusers_blocks_however_branches_are_called(wan, rebuilt, choice):
    wanted = states(wan.model, wan.prepare(steps=3, batched=False))
    run = DirectRun()
    assert farthest(states(rebuilt(wan), wan.prepare(steps=3, batched=choice), run), wanted) < 1e-6
    assert run.details["guidance"] == ("batched" if choice else "one branch after the other")


@pytest.mark.parametrize(("choice", "rows"), [(False, [1]), (True, [1]), (True, [2])])
def test_wan_computes_the_start_of_its_first_block_once_for_both_branches(wan, rebuilt, monkeypatch, choice, rows):
    from sgd.nodes.models.rebuilt.wan_blocks import WanBlock

    seen: list[tuple[bool, int]] = []
    original = WanBlock._self_attended

    def counted(self: Any, hidden: torch.Tensor, *args: Any) -> Any:
        seen.append((self.leads, len(hidden)))
        return original(self, hidden, *args)

    monkeypatch.setattr(WanBlock, "_self_attended", counted)
    prompts = {"prompts": ("one", "two")[: rows[0]], "seed": list(range(rows[0]))}
    states(rebuilt(wan), wan.prepare(steps=2, batched=choice, **prompts))
    assert [count for leads, count in seen if leads] == rows * 2
    others = [count for leads, count in seen if not leads]
    assert others == ([2 * rows[0]] * 2 * 2 if choice else rows * 2 * 2 * 2)


@pytest.mark.parametrize(
    ("family", "options", "reason"),
    [
        ("wan", {}, "one call for both was not measured to be faster with wan"),
        ("z-image", {}, "one call for both was not measured to be faster with z-image"),
        ("qwen-image", {"rebuilt": False}, "the transformer's blocks are not rebuilt"),
        ("qwen-image", {"rows": 2}, "2 clips fill a call without it"),
        ("qwen-image", {"gate": library(HERE)}, "cache-dit counts one branch a call"),
        ("qwen-image", {"divided": True}, None),  # the run's mesh is told elsewhere
    ],
)
def test_reasons_of_auto_for_one_branch_after_the_other(qwen, family, options, reason):
    *_, branches = qwen.prepare(steps=1, batched="auto")
    known = {"rebuilt": True, "rows": 1, "gate": None, "divided": False} | options
    gate = known.pop("gate")
    assert batched(branches, by_name(family), gate, **known) == (False, reason)


def test_auto_is_the_default_and_works_with_diffusers_blocks(qwen):
    *_, branches = qwen.prepare(steps=1)
    split = cfg.split(branches.conditioning, scale=4.0)
    assert split.batched == "auto"
    run = DirectRun()
    states(qwen.model, qwen.prepare(steps=1, batched="auto"), run)
    assert run.details["guidance"] == "one branch after the other: the transformer's blocks are not rebuilt"
    assert json.dumps(run.details)
