"""`cache.library`: the decisions and latents of the cache-dit package on diffusers' pipelines, and nothing left."""

from __future__ import annotations

import copy
import gc
import weakref

import cache_dit
import pytest
import torch
from cache_dit.caching.block_adapters import FakeDiffusionPipeline
from helpers import oracle_cache_dit as oracle
from helpers import tiny
from helpers.direct import DirectRun, model_of, sample
from helpers.gate_pipelines import FAMILIES, STEPS, state
from helpers.gate_pipelines import sample as sample_pipeline
from helpers.ours import Pair, decisions
from sgd.graph.contract.errors import NodeError
from sgd.nodes import cfg, denoiser, schedule
from sgd.nodes.cache.cache_dit.engine_options import JOINED, settled
from sgd.nodes.cache.cache_dit.library_loop import LibraryEngine
from sgd.nodes.cache.engine.gated_component import GatedComponent
from sgd.nodes.cache.gate_place import Place
from sgd.nodes.cache.methods.cache_dit_options import library
from sgd.nodes.cache.state import GateState
from sgd.nodes.cfg import GuiderState
from sgd.nodes.families import by_name
from sgd.nodes.models.nodes.model_expert import expert
from sgd.nodes.schedule import SchedulerState

BASE = {"Fn_compute_blocks": 1, "max_warmup_steps": 3}
TAYLOR = {"enable_taylorseer": True, "enable_encoder_taylorseer": True}
FOUR = {"max_warmup_steps": 4, "max_continuous_cached_steps": 2, "residual_diff_threshold": 1.0}
MASK = [int(digit) for digit in "1110010011101001"]


def gate(**options):
    return library("gate", **(BASE | options))


def mixed(family):
    """Options with which some steps are reused and others computed in every branch and list."""
    return {"residual_diff_threshold": FAMILIES[family].mixed["dbcache"]}


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    return {family: Pair(family, tmp_path_factory.mktemp(family)) for family in FAMILIES}


def by_branch(made):
    """Decisions as {branch: [one for each list]}."""
    found: dict[str, list] = {}
    for key, value in made.items():
        branch = key[0] if isinstance(key, tuple) else key
        found.setdefault(branch, []).append(value)
    return found


def near(ours, theirs):
    return all(
        (one.reshape(other.shape) - other).abs().max() <= 1e-5 * other.abs().max()
        for one, other in zip(ours, theirs, strict=True)
    )


def assert_same(ours, theirs):
    """The decisions and latents of two outcomes; cache-dit's own are {branch: {list: ...}}."""
    found = by_branch(ours.decisions)
    assert set(found) == set(theirs.decisions)
    for branch, lists in theirs.decisions.items():
        for made, wanted in zip(found[branch], lists.values(), strict=True):
            assert made.computed == wanted.computed
            assert [d is None for d in made.distances] == [d is None for d in wanted.distances]
            both = [pair for pair in zip(made.distances, wanted.distances, strict=True) if pair[0] is not None]
            assert all(one == pytest.approx(other, rel=1e-4) for one, other in both)
    assert near(ours.latents, theirs.latents)


@pytest.mark.parametrize("family", FAMILIES)
def test_dbcache(pairs, family):
    options = pairs[family].one_by_one
    made = pairs[family].outcome(gate(**mixed(family)), **options)
    theirs = oracle.run(pairs[family].pipeline, oracle.config(**mixed(family)), **options)
    assert_same(made, theirs)
    for lists in theirs.decisions.values():
        for each in lists.values():
            assert 0 < len(each.cached) < STEPS - 3


CALIBRATED = {
    "taylor 1": ({"taylorseer_order": 1, **TAYLOR}, oracle.taylor(1)),
    "taylor 2": ({"taylorseer_order": 2, **TAYLOR}, oracle.taylor(2)),
    "taylor of outputs": (
        {**TAYLOR, "taylorseer_cache_type": "hidden_states"},
        oracle.taylor(1, calibrator_cache_type="hidden_states"),
    ),
    "dmd": ({"enable_dmd": True, "dmd_history": 5}, cache_dit.DMDCalibratorConfig(dmd_history=5)),
    "foca": ({"enable_foca": True, "enable_encoder_foca": True}, cache_dit.FoCaCalibratorConfig()),
}


@pytest.mark.parametrize("family", ["wan", "hunyuan-video", "flux"])
@pytest.mark.parametrize("name", CALIBRATED)
def test_calibrators(pairs, family, name):
    options, calibrator = CALIBRATED[name]
    pair = pairs[family]
    made = pair.outcome(gate(**FOUR, **options))
    assert_same(made, oracle.run(pair.pipeline, oracle.config(**FOUR), calibrator))
    assert not near(made.latents, pair.run(gate(**FOUR)))  # without one it is something else


@pytest.mark.parametrize(
    "options",
    [
        {"Bn_compute_blocks": 2, "Fn_compute_blocks": 2},
        {"max_cached_steps": 2},
        {"max_continuous_cached_steps": 1},
        {"max_warmup_steps": 8, "warmup_interval": 3},
        {"max_accumulated_residual_diff_threshold": 0.15},
        {"steps_computation_mask": MASK},
        {"steps_computation_mask": MASK, "steps_computation_policy": "static"},
    ],
    ids=" ".join,
)
def test_limits_and_masks(pairs, options):
    options = {**mixed("wan"), **options}
    made = pairs["wan"].outcome(gate(**options))
    assert_same(made, oracle.run(pairs["wan"].pipeline, oracle.config(**options)))
    assert made.decisions["positive"] != pairs["wan"].outcome(gate(**mixed("wan"))).decisions["positive"]


def test_policies_of_masks_are_scaled_to_the_steps(pairs):
    made = pairs["wan"].outcome(gate(mask_policy="fast", steps_computation_policy="static"))
    mask = cache_dit.steps_mask(total_steps=STEPS, mask_policy="fast")
    assert made.decisions["positive"].computed == tuple(map(bool, mask))
    assert made.decisions["negative"].computed == tuple(map(bool, mask))


@pytest.mark.parametrize("family", ["wan", "hunyuan-video"])
def test_dbprune(pairs, family):
    """cache-dit's own reader makes a DBPrune configuration that it cannot use; made by hand it can."""
    pair, options = pairs[family], mixed(family)
    run = DirectRun()
    ours = pair.run(gate(cache_type="DBPrune", non_prune_block_ids=[3], **options), run=run)
    config = cache_dit.DBPruneConfig(**BASE, **options, non_prune_block_ids=[3], enable_separate_cfg=True)
    with oracle.enabled(pair.pipeline, config):
        theirs = sample_pipeline(pair.pipeline)
        pruned = pair.pipeline.transformer._context_manager.get_context(pair.pipeline.transformer._context_names[0])
        counts = list(pruned.pruned_blocks)
    assert near(ours, theirs)
    assert sum(counts) > 0
    said = [data for kind, data in run.events if kind == "gate" and data["branch"] == "positive"]
    said = [data["reason"] for data in said if data.get("stack", 0) == 0]
    assert said == [f"{count} of 6 blocks reused" if count else "rule" for count in counts]


def test_two_experts_have_a_cache_each(tmp_path):
    made = tiny.wan(layers=6, experts=2, boundary_ratio=0.875)
    made.save_pretrained(tmp_path)
    pair = Pair.__new__(Pair)
    pair.family, pair.model = "wan", model_of(tmp_path)
    parts = {part: pair.model.component(part) for part in pair.model.parts() if part != "scheduler"}
    pipeline = type(made)(**parts, scheduler=made.scheduler, boundary_ratio=0.875)
    pipeline.set_progress_bar_config(disable=True)
    options = {"residual_diff_threshold": 0.25, "max_warmup_steps": 2}
    theirs = oracle.run(pipeline, oracle.config(**options))
    plan, start, branches = pair.prepare()
    run, own = DirectRun(), gate(**options)
    with torch.no_grad():
        states = sample(
            pair.model,
            plan,
            start,
            branches,
            model_below=expert(pair.model, "transformer_2"),
            boundary=0.875,
            gate=own,
            run=run,
        )
    assert near([each.tensor for each in states], theirs.latents)
    for branch, lists in theirs.decisions.items():
        for name, wanted in lists.items():
            component = "transformer_2" if name.startswith("transformer_2") else "transformer"
            rows = [data for kind, data in run.events if kind == "gate" and data["component"] == component]
            assert tuple(row["computed"] for row in rows if row["branch"] == branch) == wanted.computed
            assert wanted.cached


class ByHand:
    """In place of a gate's state: each branch has a copy of the transformer that cache-dit was applied to."""

    def __init__(self, copies):
        self.copies, self.engine, self.index = copies, self, 0

    def at_work(self, *_):
        return self

    def evaluate(self, names, index, given, call):
        (name,) = names
        return call(self.copies[name], given)

    def report(self, names):
        pass


def test_a_branch_that_rests_keeps_its_own_state(pairs):
    """Guidance in the middle alone; cache-dit, which counts calls, has a transformer for each branch."""
    pair = pairs["wan"]
    options = {**mixed("wan"), "max_warmup_steps": 2}
    interval = {"start": 0.25, "stop": 0.75}
    made = pair.outcome(gate(**options), **interval)
    plan, start, branches = pair.prepare(**interval)
    copies = {}
    for name, count in (("positive", STEPS), ("negative", STEPS // 2)):
        copies[name] = copy.deepcopy(pair.model.component("transformer"))
        config = oracle.config(**options, num_inference_steps=count, enable_separate_cfg=False)
        cache_dit.enable_cache(copies[name], cache_config=config)
    scheduler, guider, now, states = SchedulerState(), GuiderState(), start, []
    with torch.no_grad():
        for step in plan:
            made_here = denoiser.predict(
                pair.model, now, step, branches, ByHand(copies), DirectRun(), gate=gate(**options)
            )
            now = schedule.step(plan, step, now, cfg.merge(made_here, branches, guider), scheduler)
            states.append(now.tensor)
    assert all(torch.equal(one, other) for one, other in zip(made.latents, states, strict=True))
    for name, transformer in copies.items():
        context = transformer._context_manager.get_context(transformer._context_names[0])
        assert made.decisions[name].cached == tuple(context.cached_steps)
        assert made.decisions[name].cached
    assert len(made.decisions["negative"].computed) == STEPS // 2


def test_masks_are_by_the_schedule_where_a_branch_rests(pairs):
    mask = [1] * 4 + [0, 0, 1, 0, 0, 1, 0, 0] + [1] * 4
    made = pairs["wan"].outcome(
        gate(steps_computation_mask=mask, steps_computation_policy="static"), start=0.25, stop=0.75
    )
    assert made.decisions["positive"].computed == tuple(map(bool, mask))
    # It has nothing to reuse at its first step, whatever the mask says there.
    assert made.decisions["negative"].computed == (True, *map(bool, mask[5:12]))


def test_a_mask_is_by_the_schedule_where_the_gate_comes_later(pairs):
    """`schedule.choose` exchanges gates on one model."""
    pair = pairs["wan"]
    plan, start, branches = pair.prepare()
    late = gate(steps_computation_mask=MASK, steps_computation_policy="static")
    scheduler, guider, state, run, now = SchedulerState(), GuiderState(), GateState(), DirectRun(), start
    with torch.no_grad():
        for step in plan:
            chosen = late if step.index >= 6 else None
            predictions = denoiser.predict(pair.model, now, step, branches, state, run, gate=chosen)
            now = schedule.step(plan, step, now, cfg.merge(predictions, branches, guider), scheduler)
    state.end()
    totals = {data["branch"]: data["steps"] for kind, data in run.events if kind == "gate_total"}
    steps = "".join(map(str, MASK[6:]))
    assert steps[0] == "0"  # where there is nothing to reuse yet
    assert totals == dict.fromkeys(("positive", "negative"), "1" + steps[1:])


def test_no_run_feels_another(pairs):
    """Other sizes and numbers of steps in one process: what fresh ones give."""
    pair, options = pairs["wan"], mixed("wan")
    first = pair.run(gate(**options))
    pair.run(gate(**options), size=48, steps=10)
    again = pair.run(gate(**options))
    assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_cache_that_computes_all_changes_nothing(pairs, family):
    options = pairs[family].one_by_one  # rows of a batch are computed one by one, which rounds otherwise
    plain = pairs[family].run(**options)
    made = pairs[family].outcome(gate(residual_diff_threshold=1e-9), **options)
    assert all(torch.equal(one, other) for one, other in zip(made.latents, plain, strict=True))
    assert {each.computed for each in made.decisions.values()} == {(True,) * STEPS}


@pytest.mark.parametrize("fails", [False, True], ids=["to its end", "half-way"])
@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_is_left_behind(pairs, family, fails):
    pair = pairs[family]
    transformer = pair.model.component("transformer")
    modules = list(transformer.modules())
    classes = {type(module) for module in modules} | {FakeDiffusionPipeline}
    before = [state(module) for module in modules]
    of_classes = {cls: dict(vars(cls)) for cls in classes}
    last = getattr(transformer, FAMILIES[family].lists[-1])[-1]
    calls = []

    def fail(*_):
        calls.append(1)
        if fails and len(calls) == 8:
            raise RuntimeError("no more")

    handle = last.register_forward_hook(fail)
    try:
        pair.run(gate(**mixed(family)))
    except RuntimeError as error:
        assert fails and "no more" in str(error)  # noqa: PT017, PT018
    finally:
        handle.remove()
    assert len(calls) >= 5
    assert list(transformer.modules()) == modules
    for module, (attributes, children) in zip(modules, before, strict=True):
        assert state(module) == (attributes, children)
        assert list(module._modules) == list(children)  # equality of mappings does not see the order
    assert {cls: dict(vars(cls)) for cls in classes} == of_classes


class Held:
    """In place of a gate's state: an engine at one step."""

    def __init__(self, engine, index):
        self.engine, self.index = engine, index

    def at_work(self, *_):
        return self

    def report(self, names):
        pass


@pytest.mark.parametrize("options", [{}, {"cache_type": "DBPrune"}, TAYLOR], ids=["DBCache", "DBPrune", "Taylor"])
def test_a_closed_engine_keeps_neither_tensors_nor_blocks(pairs, options):
    pair = pairs["wan"]
    family = by_name("wan")
    plan, start, branches = pair.prepare(steps=8)
    settings = settled(gate(**mixed("wan"), **options), Place(family, {}, None, 8))
    engine = LibraryEngine(
        settings, GatedComponent(pair.model.component("transformer"), pair.model.family, 8, lambda _: range(8))
    )
    step = plan.steps[0]
    gc.collect()
    gc.disable()
    try:
        with torch.no_grad():
            denoiser.predict(pair.model, start, step, branches, Held(engine, step.index), DirectRun(), gate=gate())
        cache = engine.caches["positive", 0]
        watched = [weakref.ref(cache.stand_in)]
        context = cache.manager.get_context(cache.contexts[0])
        watched += [weakref.ref(t) for t in context.buffers.values()]
        if context.calibrator is not None:
            watched.append(weakref.ref(context.calibrator))
        assert len(watched) > 1
        engine.close()
        del cache, context, engine
        assert [ref() is None for ref in watched] == [True] * len(watched)
    finally:
        gc.enable()


def test_decisions_known_ahead_come_true(pairs):
    pair, family = pairs["wan"], by_name("wan")
    transformer = pair.model.component("transformer")
    cases = [
        ({"steps_computation_mask": MASK, "steps_computation_policy": "static"}, "".join(map(str, MASK))),
        (FOUR, "1111001001001001"),
        ({"max_warmup_steps": 5, **mixed("wan")}, "11111" + "?" * 11),
        ({**FOUR, "force_refresh_step_hint": 9}, "111100100" + "?" * 7),
    ]
    for options, digits in cases:
        made = gate(**options)
        component = GatedComponent(transformer, family, STEPS, lambda _: range(STEPS), trial=True)
        engine = LibraryEngine(settled(made, Place(family, {}, None, STEPS)), component)
        engine.indices["positive"] = range(STEPS)
        assert engine.digits("positive") == digits
        happened = pair.outcome(made).decisions["positive"].computed
        assert all(known in ("?", str(int(computed))) for known, computed in zip(digits, happened, strict=True))


def test_a_refresh_begins_anew(pairs):
    """After so many steps of the branch; cache-dit counts calls, which is the same where nothing is guided."""
    options = {**FOUR, "force_refresh_step_hint": 9}
    positive = pairs["wan"].outcome(gate(**options)).decisions["positive"]
    assert positive.computed[8:14] == (False, True, True, True, True, False)
    unguided = pairs["wan"].outcome(gate(**options), scale=None)
    theirs = oracle.run(pairs["wan"].pipeline, oracle.config(**options, enable_separate_cfg=False), scale=None)
    assert near(unguided.latents, theirs.latents)


def test_the_report_of_a_run(pairs):
    run = DirectRun()
    pairs["hunyuan-video"].run(gate(**mixed("hunyuan-video"), max_cached_steps=3), run=run)
    totals = [data for kind, data in run.events if kind == "gate_total"]
    assert [(t["branch"], t["stack"]) for t in totals] == [
        (branch, stack) for branch in ("positive", "negative") for stack in (0, 1)
    ]
    for total in totals:
        rows = [
            data
            for kind, data in run.events
            if kind == "gate" and (data["branch"], data["stack"]) == (total["branch"], total["stack"])
        ]
        assert total["steps"] == "".join(str(int(row["computed"])) for row in rows)
        assert total["computed"] + total["reused"] == STEPS
        assert [row["reason"] for row in rows[:3]] == ["warm-up"] * 3
        assert {row["reason"] for row in rows[3:]} == {"rule", "limit"}
        for row in rows[3:]:
            assert row["threshold"] == mixed("hunyuan-video")["residual_diff_threshold"]
            if row["reason"] == "rule":
                assert row["computed"] == (row["distance"] >= row["threshold"])
    assert decisions(run)  # each has what the other gates' have


def test_a_cache_that_reused_nothing_names_a_threshold_that_reuses(pairs):
    run = DirectRun()
    pairs["wan"].run(gate(residual_diff_threshold=1e-3), run=run)
    (warning,) = run.warnings
    least = float(warning.split("would reuse a step is ")[1])
    again = DirectRun()
    pairs["wan"].run(gate(residual_diff_threshold=least), run=again)
    assert again.warnings == []


@pytest.mark.parametrize("family", FAMILIES)
def test_which_lists_are_one_to_cache_dit(pairs, family):
    transformer = pairs[family].model.component("transformer")
    known = cache_dit.BlockAdapterRegister.get_adapter(transformer, skip_post_init=True)
    lists = known.blocks if isinstance(known.blocks, list) else [known.blocks]
    assert (len(lists) < len(by_name(family).blocks.lists)) == (family in JOINED)


def test_one_state_for_two_branches_is_refused(pairs):
    with pytest.raises(NodeError, match="enable_separate_cfg"):
        pairs["wan"].run(gate(enable_separate_cfg=False))
    pairs["wan"].run(gate(enable_separate_cfg=False), scale=None)
    pairs["z-image"].run(gate(enable_separate_cfg=False))
