"""Gates in a batch: every clip, and every guidance branch of a batched call, decides and looks as it does alone."""

from __future__ import annotations

import inspect
from collections import Counter

import pytest
import torch
from helpers import oracle_cache_dit
from helpers.calibrating import Calibrating
from helpers.direct import DirectRun
from helpers.gate_pipelines import FAMILIES, PROMPT, STEPS
from helpers.gates_apart import HERE, LONG, MEASURED, PROMPTS, SEEDS, made
from helpers.ours import Pair, decisions
from sgd.nodes import cfg, denoiser, schedule
from sgd.nodes.cache.methods.dbcache import dbcache
from sgd.nodes.cache.methods.scm import scm
from sgd.nodes.cache.state import GateState
from sgd.nodes.cfg import GuiderState
from sgd.nodes.schedule import SchedulerState
from torch.overrides import TorchFunctionMode

BRANCHES = ("positive", "negative")
FEW = ("wan", "z-image")
"""Families that show everything that is not about a family's own call: one without padding, and one with."""


@pytest.fixture(scope="module", params=FAMILIES)
def pair(request, tmp_path_factory):
    return Pair(request.param, tmp_path_factory.mktemp("gates") / request.param, layers=3)


@pytest.fixture(scope="module", params=FEW)
def one_of_few(request, tmp_path_factory):
    return Pair(request.param, tmp_path_factory.mktemp("gates") / request.param, layers=3)


def run(pair, gate, clip=None, **options):
    """Latents after every step and decisions, of both clips in one batch, or of one of them."""
    prompts, seeds = (PROMPTS, SEEDS) if clip is None else ((PROMPTS[clip],), SEEDS[clip])
    seen = DirectRun()
    states = pair.run(gate, run=seen, prompts=prompts, seed=seeds, padding="cut", **options)
    return states, decisions(seen), seen


def assert_as_alone(pair, gate, **options):
    """Compare a batch of both clips and both branches with runs in which every call has one row."""
    states, together, seen = run(pair, gate, batched=True, **options)
    for clip in range(len(PROMPTS)):
        expected, alone, _ = run(pair, gate, clip, batched=False, **options)
        for key, each in alone.items():
            mine = together[clip, key]
            assert mine.computed == each.computed, (clip, key)
            for ours, reference in zip(mine.distances, each.distances, strict=True):
                assert (ours is None) == (reference is None)
                assert ours is None or ours == pytest.approx(reference, rel=1e-3)
        for ours, reference in zip(states, expected, strict=True):
            assert torch.allclose(ours[clip : clip + 1], reference, rtol=0, atol=1e-5 * reference.abs().max().item())
    assert set(together) == {(clip, key) for clip in range(len(PROMPTS)) for key in alone}
    return together, seen


def in_turn(methods):
    """Methods as parameters; those that take other methods' ways through the engine are slow."""
    return [pytest.param(m, marks=pytest.mark.slow if m in ("scm dynamic", "dbcache") else ()) for m in methods]


@pytest.mark.parametrize("method", in_turn(MEASURED))
def test_two_prompts_in_a_batch_decide_and_look_as_each_does_alone(pair, method):
    together, seen = assert_as_alone(pair, made(pair.family, method))
    assert any(together[0, branch].computed != together[1, branch].computed for branch in BRANCHES), "they agree"
    assert all(0 < len(each.cached) < STEPS - 1 for each in together.values())
    assert not seen.warnings


def test_branches_whose_ratios_differ_decide_as_each_does_alone(pair):
    """MagCache's decisions are known ahead, and those of the branches differ."""
    together, _ = assert_as_alone(pair, made(pair.family, "magcache"))
    assert together[0, "positive"].computed == together[1, "positive"].computed
    assert together[0, "positive"].computed != together[0, "negative"].computed


def test_the_cache_dit_package_decides_for_each_clip_as_alone(pair):
    together, _ = assert_as_alone(pair, made(pair.family, "library"))
    assert all(each.cached for each in together.values())


def test_lists_that_decide_separately_do_so_for_each_clip(pair):
    if len(FAMILIES[pair.family].lists) == 1:
        pytest.skip("one list of blocks")
    together, _ = assert_as_alone(pair, made(pair.family, "separate"))
    assert all(each.cached for each in together.values())


@pytest.mark.parametrize("method", ["scm", "fora", "time"])
def test_gates_that_compare_nothing_of_a_clip(one_of_few, method):
    pair = one_of_few
    if method == "time" and not pair.model.family.time_modules:
        pytest.skip("no embedding of the timestep alone")
    together, _ = assert_as_alone(pair, made(pair.family, method))
    assert all(each.cached for each in together.values())


def test_a_clip_of_a_batch_decides_and_looks_as_with_the_cache_dit_package(pair):
    threshold = FAMILIES[pair.family].mixed["dbcache"]
    stacks = "separate" if pair.family == "hunyuan-video" else "together"
    gate = dbcache(HERE, front_blocks=1, threshold=threshold, warmup_steps=3, stacks=stacks)
    seen = DirectRun()
    states = pair.run(gate, run=seen, prompts=(LONG, PROMPT), seed=(5, 0), **pair.one_by_one)
    reference = oracle_cache_dit.run(
        pair.pipeline, oracle_cache_dit.config(residual_diff_threshold=threshold), **pair.one_by_one
    )
    mine = decisions(seen)
    for branch, lists in reference.decisions.items():
        for number, expected in enumerate(lists.values()):
            key = (1, (branch, number)) if stacks == "separate" else (1, branch)
            assert mine[key].computed == expected.computed
    for ours, theirs in zip(states, reference.latents, strict=True):
        assert torch.allclose(ours[1:], theirs, rtol=0, atol=1e-5 * theirs.abs().max().item())


@pytest.mark.parametrize("method", ["taylorseer", "easycache"])
def test_guidance_in_an_interval_decides_as_with_a_call_for_each_branch(pair, method):
    """At some steps the batch has both branches, at others the positive one alone, with other padding."""
    if pair.family not in ("qwen-image", "z-image"):
        pytest.skip("families that pad are enough")
    assert_as_alone(pair, made(pair.family, method), start=0.25, stop=0.75)


def rows_of_blocks(pair, gate, number, **options):
    """The rows that went through a block of the first list at each call, and the decisions."""
    rows: list[int] = []
    block = getattr(pair.model.component("transformer"), FAMILIES[pair.family].lists[0])[number]

    def hook(module, args, kwargs):
        hidden = args[0] if args else kwargs["hidden_states"]
        rows.append(len(hidden))
        streams = [t for t in (*args[1:2], kwargs.get("encoder_hidden_states")) if isinstance(t, torch.Tensor)]
        assert all(len(stream) == len(hidden) for stream in streams)

    handle = block.register_forward_pre_hook(hook, with_kwargs=True)
    try:
        _, made_here, _ = run(pair, gate, **options)
    finally:
        handle.remove()
    return rows, made_here


@pytest.mark.parametrize("method", ["taylorseer", "easycache", "magcache"])
@pytest.mark.parametrize("batched", [True, False])
def test_only_the_rows_that_compute_go_through_the_blocks(one_of_few, method, batched):
    pair = one_of_few
    rows, found = rows_of_blocks(pair, made(pair.family, method), 1, batched=batched)
    computed = Counter(
        (step, None if batched else branch)
        for (_, branch), each in found.items()
        for step, does in enumerate(each.computed)
        if does
    )
    order = [(step, branch) for step in range(STEPS) for branch in ([None] if batched else BRANCHES)]
    assert rows == [computed[call] for call in order if computed[call]]
    if batched:
        assert set(rows) - {4}, "some rows are computed while others are reused"


def test_the_first_blocks_of_a_gate_that_compares_them_get_every_row(one_of_few):
    rows, _ = rows_of_blocks(one_of_few, made(one_of_few.family, "taylorseer"), 0, batched=True)
    assert rows == [4] * STEPS


class Copies(TorchFunctionMode):
    """Counts the functions that copy rows."""

    def __init__(self):
        super().__init__()
        self.seen: Counter[str] = Counter()

    def __torch_function__(self, func, types, args=(), kwargs=None):
        name = getattr(func, "__name__", "")
        if name in ("cat", "stack", "index_select", "copy_", "clone", "gather", "pad"):
            self.seen[name] += 1
        return func(*args, **(kwargs or {}))


def copies(pair, gate):
    with Copies() as seen:
        run(pair, gate, batched=True)
    return seen.seen


def test_rows_that_agree_are_not_copied(one_of_few):
    pair = one_of_few
    gate = scm(HERE, preset="fast", front_blocks=1, back_blocks=1, order=2)
    computes = copies(pair, scm(HERE, mask="1" * STEPS, front_blocks=1, back_blocks=1, order=2))
    reuses = copies(pair, gate)
    # Blocks that do not run copy nothing either, so that a gate that reuses has no more copies than one that computes.
    assert all(reuses[name] <= computes[name] for name in reuses)
    assert computes == copies(pair, None)


class Waits(TorchFunctionMode):
    """Counts what makes a host wait for its device."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        names = ("item", "tolist", "cpu", "numpy", "__bool__", "__float__", "__int__", "__index__", "nonzero")
        if getattr(func, "__name__", "") in names and args[0].is_floating_point():
            self.count += 1
        return func(*args, **(kwargs or {}))


def waits(pair, gate):
    with Waits() as seen:
        _, found, _ = run(pair, gate, batched=True)
    return seen.count, found


@pytest.mark.parametrize("method", ["taylorseer", "teacache", "easycache"])
def test_all_rows_of_a_call_wait_for_the_device_once(one_of_few, method):
    pair = one_of_few
    plain, _ = waits(pair, None)
    count, found = waits(pair, made(pair.family, method))
    measured = {step for each in found.values() for step, d in enumerate(each.distances) if d is not None}
    assert count == plain + len(measured)


def test_rows_that_disagree_as_it_was_known_ahead_wait_for_nothing(one_of_few):
    pair = one_of_few
    assert waits(pair, made(pair.family, "magcache"))[0] == waits(pair, None)[0]


def test_arguments_of_blocks_have_rows_where_the_family_says_so(pair):
    """The first dimension of every tensor that a block gets, at batches of 2 and 3."""
    transformer, layout = pair.model.component("transformer"), pair.model.family.blocks
    block = getattr(transformer, next(iter(layout.lists)))[0]
    names = {"hidden_states", "encoder_hidden_states"} if layout.takes_text else {"hidden_states", "x"}

    def sizes(prompts):
        found: dict[str, int] = {}

        def hook(module, args, kwargs):
            for name, value in inspect.signature(module.forward).bind(*args, **kwargs).arguments.items():
                tensors = value if isinstance(value, tuple) else (value,)
                for tensor in tensors:
                    if isinstance(tensor, torch.Tensor):
                        found[name] = len(tensor)

        handle = block.register_forward_pre_hook(hook, with_kwargs=True)
        pair.run(prompts=prompts, seed=tuple(range(len(prompts))), steps=1, scale=None)
        handle.remove()
        return found

    two, three = sizes(PROMPTS), sizes((*PROMPTS, PROMPT))
    assert set(two) == set(three)
    changing = {name for name in two if two[name] != three[name]}
    assert {name: (two[name], three[name]) for name in changing} == dict.fromkeys(changing, (2, 3))
    assert changing - names == {name for name in layout.per_row if name in two}


def test_three_clips_with_one_prompt_are_three_clips(one_of_few):
    """Rows of one length, which decide by their seeds."""
    pair = one_of_few
    gate, seeds = made(pair.family, "dbcache"), (3, 8, 5)
    seen = DirectRun()
    states = pair.run(gate, run=seen, prompts=[PROMPT] * 3, seed=seeds)
    for clip, seed in enumerate(seeds):
        alone = DirectRun()
        expected = pair.run(gate, run=alone, seed=seed)
        assert {key: decisions(seen)[clip, key].computed for key in BRANCHES} == {
            key: each.computed for key, each in decisions(alone).items()
        }
        assert torch.allclose(states[-1][clip : clip + 1], expected[-1], rtol=0, atol=1e-5 * expected[-1].abs().max())


def test_a_batch_is_measured_clip_by_clip(one_of_few):
    pair = one_of_few
    together, alone = Calibrating(), [Calibrating(), Calibrating()]
    pair.run(run=together, prompts=PROMPTS, seed=SEEDS, padding="cut", batched=True)
    for clip, each in enumerate(alone):
        pair.run(run=each, prompts=PROMPTS[clip : clip + 1], seed=SEEDS[clip], padding="cut", batched=False)
    rows = [data for kind, data in together.events if kind == "measurement"]
    for branch in BRANCHES:
        for name in ("ratio", "modulated", "residual", "output"):
            values = [data["values"].get(name) for data in rows if data["branch"] == branch]
            for clip, each in enumerate(alone):
                assert values[clip::2][1:] == pytest.approx(each.measured(name)[branch][1:], rel=1e-3)


def test_a_prompt_of_another_length_within_the_loop_is_computed_first(one_of_few):
    """Z-Image's hidden states hold the prompt: nothing of another length is reused, whatever the mask says."""
    pair = one_of_few
    (plan, now, before), (_, _, after) = (pair.prepare(prompts=[prompt], scale=None) for prompt in ("a", LONG))
    gate, state, guider, scheduler, seen = (
        scm(HERE, mask="1" + "0" * (STEPS - 1)),
        GateState(),
        GuiderState(),
        SchedulerState(),
        DirectRun(),
    )
    with torch.no_grad():
        for step in plan:
            branches = before if step.index < 8 else after
            predictions = denoiser.predict(pair.model, now, step, branches, state, seen, gate=gate)
            now = schedule.step(plan, step, now, cfg.merge(predictions, branches, guider), scheduler)
    state.end()
    (total,) = [data["steps"] for kind, data in seen.events if kind == "gate_total"]
    longer = pair.family == "z-image"
    assert total == "1" + "0" * 7 + str(int(longer)) + "0" * 7
    assert now.tensor.isfinite().all()
