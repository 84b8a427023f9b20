"""Values of all steps of a loop, which the first step makes: equal to those of each step alone, and made once."""

from __future__ import annotations

import gc
import math
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from diffusers.models import attention_dispatch
from helpers.direct import DirectRun, model_of
from helpers.gate_pipelines import FAMILIES
from helpers.graph_double import GraphDouble
from helpers.ours import Pair
from sgd.nodes import cfg, denoiser, schedule
from sgd.nodes.cache.state import GateState
from sgd.nodes.cfg import GuiderState
from sgd.nodes.models.attention import tuning
from sgd.nodes.models.memory.offloading import Offload
from sgd.nodes.models.rebuilt import recorded_forward, timed_modules
from sgd.nodes.models.rebuilt.step_tables import Table
from sgd.nodes.models.rebuilt.timed_modules import TIMED, TimedForward
from sgd.nodes.models.transforms.optimize_transform import Optimize
from sgd.nodes.schedule import SchedulerState
from sgd.nodes.support import cost_meter
from sgd.nodes.support.work_meter import OperationMeter
from torch.utils._python_dispatch import TorchDispatchMode

CLOSE = 1e-6
WITH_TABLES = [name for name in FAMILIES if name != "wan"]
TWO = {"prompts": ("two blue squares meet", "red"), "seed": [1, 2]}
TIME = (".norm1.linear.", ".norm1_context.linear.", ".norm.linear.", "_mod.", "adaLN_modulation", "norm_out.linear")
EMBEDS = ("time_text_embed", "t_embedder", "context_embedder.token_refiner", "context_embedder.proj_in")


class Both(Pair):
    """A pair with the model of rebuilt blocks beside diffusers'."""

    quick: Any


@pytest.fixture(scope="module", params=WITH_TABLES)
def pair(request, tmp_path_factory):
    made = Both(request.param, tmp_path_factory.mktemp("tables") / request.param, layers=2)
    made.quick = made.rebuilt()
    yield made
    made.quick.release("transformer")


def starts(pair: Pair, prepared: Any) -> list[Any]:
    """The latents at which each step of diffusers' blocks begins."""
    plan, now, branches = prepared
    scheduler, guider, gates, found = SchedulerState(), GuiderState(), GateState(), []
    with torch.no_grad():
        for step in plan:
            found.append(now)
            made = denoiser.predict(pair.model, now, step, branches, gates, DirectRun())
            now = schedule.step(plan, step, now, cfg.merge(made, branches, guider), scheduler)
    return found


def predictions(
    model: Any, prepared: Any, latents: Sequence[Any], first: int = 0, run: DirectRun | None = None
) -> Iterator[list[torch.Tensor]]:
    """The predictions of each step from a number on, in one run of a loop."""
    plan, _, branches = prepared
    gates = GateState()
    for step in list(plan)[first:]:
        with torch.no_grad():
            made = denoiser.predict(model, latents[step.index], step, branches, gates, run or DirectRun())
        yield list(made.branches.values())
    gates.end()


def require_close(found: Any, wanted: Any) -> None:
    for step, (ours, theirs) in enumerate(zip(found, wanted, strict=True)):
        for a, b in zip(ours, theirs, strict=True):
            assert (a - b).norm() <= CLOSE * b.norm(), f"step {step}"


@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize("rows", [1, 2])
def test_equals_diffusers_forward_at_each_step(pair, rows, batched):
    prepared = pair.prepare(steps=5, batched=batched, **(TWO if rows == 2 else {}))
    latents = starts(pair, prepared)
    require_close(predictions(pair.quick, prepared, latents), predictions(pair.model, prepared, latents))


def test_guidance_in_a_part_of_the_steps(pair):
    prepared = pair.prepare(steps=6, batched=True, start=0.2, stop=0.7, **TWO)
    latents = starts(pair, prepared)
    require_close(predictions(pair.quick, prepared, latents), predictions(pair.model, prepared, latents))


class Reads(TorchDispatchMode):
    """Names of the weights that operations read."""

    def __init__(self, transformer: Any) -> None:
        super().__init__()
        self.names = {
            p.untyped_storage().data_ptr(): f".{name}"
            for name, p in transformer.named_parameters()
            if any(part in f".{name}" for part in (*TIME, *EMBEDS)) and name.endswith("weight")
        }
        self.read: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for given in args:
            if isinstance(given, torch.Tensor) and func.overloadpacket not in (torch.ops.aten.t, torch.ops.aten.detach):
                name = self.names.get(given.untyped_storage().data_ptr())
                self.read += [name] if name else []
        return func(*args, **(kwargs or {}))


def test_later_steps_read_no_weights_of_modulation_and_of_timesteps(pair):
    prepared = pair.prepare(steps=4, **TWO)
    latents = starts(pair, prepared)
    transformer, each = pair.quick.component("transformer"), predictions(pair.quick, prepared, latents)
    with Reads(transformer) as first:
        next(each)
    expected = {name for name in first.names.values() if "refiner.0" not in name or "noise" in name or "token" in name}
    assert set(first.read) >= expected, "the first step reads all of them"
    if any(not timed.prompt for timed in TIMED[type(transformer).__name__]):
        modulations = [name for name in first.read if any(part in name for part in TIME)]
        assert len(modulations) == len(set(modulations)), "all branches share a table that depends on no prompt"
    with Reads(transformer) as later:
        list(each)
    assert later.read == []


def test_a_row_is_the_result_of_the_module_for_this_step(pair, monkeypatch):
    """Bit for bit, with the argument that the transformer's forward gives."""
    seen, original = [], TimedForward.__call__

    def compared(self: TimedForward, *args: Any, **kwargs: Any) -> Any:
        made, alone = original(self, *args, **kwargs), self.inner(*args, **kwargs)
        for a, b in zip(*(m if isinstance(m, tuple) else (m,) for m in (made, alone)), strict=True):
            seen.append(self.timed.name)
            assert (a is None and b is None) or torch.allclose(a, b, rtol=0, atol=1e-6 * float(b.abs().max()))
            if self.timed.prompt and a is not None:  # one row rounds as two do not
                assert torch.equal(a, b)
        return made

    monkeypatch.setattr(TimedForward, "__call__", compared)
    prepared = pair.prepare(steps=4, **TWO)
    list(predictions(pair.quick, prepared, starts(pair, prepared)))
    assert set(seen) == {t.name for t in TIMED[type(pair.quick.component("transformer")).__name__]}


@pytest.mark.parametrize("batched", [False, True])
def test_a_loop_that_goes_on_has_the_same_bits(pair, batched):
    prepared = pair.prepare(steps=5, batched=batched, **TWO)
    latents = starts(pair, prepared)
    whole = list(predictions(pair.quick, prepared, latents))
    for first in (2, 4):
        for ours, theirs in zip(predictions(pair.quick, prepared, latents, first), whole[first:], strict=True):
            assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


@pytest.fixture
def made(monkeypatch):
    """Names of the modules for which tables were made."""
    names: list[str] = []
    original = TimedForward._tables

    def tables(self: TimedForward, *args: Any) -> Any:
        found = original(self, *args)
        names.extend([] if found is None else [self.timed.name])
        return found

    monkeypatch.setattr(TimedForward, "_tables", tables)
    return names


@pytest.mark.parametrize("limit", ["LARGEST", "MOST_STEPS"])
def test_tables_that_are_too_large_are_not_made(pair, limit, made, monkeypatch):
    monkeypatch.setattr(timed_modules, limit, 3)
    prepared = pair.prepare(steps=4)
    latents, run = starts(pair, prepared), DirectRun()
    require_close(predictions(pair.quick, prepared, latents, run=run), predictions(pair.model, prepared, latents))
    assert made == []
    reason = "would take more than 3 B" if limit == "LARGEST" else "4 steps are more than 3"
    assert reason in run.details["modulation"]


def test_offloading_makes_none(pair, made):
    value, prepared = pair.rebuilt(Offload("transformer", "blocks")), pair.prepare(steps=3)
    latents = starts(pair, prepared)
    require_close(predictions(value, prepared, latents), predictions(pair.model, prepared, latents))
    assert made == []
    value.release("transformer")


def require_equal_models(pair: Both, start: Any, given: Sequence[tuple[Any, Any]]) -> None:
    """Steps of one loop with their branches, from the same latents, with rebuilt blocks and with diffusers'."""
    pairs = []
    for model in (pair.quick, pair.model):
        gates = GateState()
        with torch.no_grad():
            found = [denoiser.predict(model, start, step, sides, gates, DirectRun()) for step, sides in given]
        pairs.append([list(each.branches.values()) for each in found])
        gates.end()
    require_close(*pairs)


def test_a_step_with_another_timestep(pair):
    plan, start, branches = pair.prepare(steps=3)
    odd = [replace(step, timestep=step.timestep - 20, value=step.value - 20) for step in plan]
    steps = [odd[0], plan.steps[0], odd[1], plan.steps[1], plan.steps[2]]
    require_equal_models(pair, start, [(step, branches) for step in steps])


@pytest.mark.parametrize("known", [0, 1])
def test_a_step_whose_schedule_is_shorter_than_its_index(pair, known):
    """A node of another library may make such steps."""
    plan, start, branches = pair.prepare(steps=3)
    steps = [replace(step, schedule=step.schedule[:known]) for step in plan]
    require_equal_models(pair, start, [(step, branches) for step in steps])


def test_another_schedule_or_guidance_within_a_loop(pair):
    """Tables of the earlier ones are not used."""
    plan, start, branches = pair.prepare(steps=3)
    other, _, _ = pair.prepare(steps=4)
    given = [(plan.steps[0], branches), (other.steps[1], branches), (other.steps[2], branches)]
    if branches.embedded is not None:
        given += [(other.steps[3], replace(branches, embedded=1.5))]
    require_equal_models(pair, start, given)


def test_a_graph_takes_the_part_of_each_step(pair, monkeypatch):
    monkeypatch.setattr(recorded_forward, "CudaGraphs", double := GraphDouble.fresh())
    monkeypatch.setattr(recorded_forward, "HOST_SHARE", 0.0)
    run = DirectRun()
    run.device = "cuda"
    prepared = pair.prepare(steps=9, scale=None)
    latents = starts(pair, prepared)
    made = list(predictions(pair.quick, prepared, latents, run=run))
    assert double.log.count("replay") == 7, run.warnings
    for ours, theirs in zip(made, predictions(pair.quick, prepared, latents), strict=True):
        assert torch.equal(ours[0], theirs[0])
    require_close(made, predictions(pair.model, prepared, latents))


def test_a_plan_counts_the_tables(pair):
    """Their memory, and the operations of the first step, which the second does not repeat."""
    steps, peaks, operations = 4, [], []
    plan, start, branches = pair.prepare(steps=steps)
    sides = {
        side: {
            name: t if t.device.type == "cpu" and name in ("lengths", "encoder_attention_mask") else t.to("meta")
            for name, t in found.items()
        }
        for side in ("positive", "negative")
        if (found := getattr(branches.conditioning, side)) is not None
    }
    on_meta = replace(branches, conditioning=replace(branches.conditioning, **sides))
    latents = replace(start, tensor=start.tensor.to("meta"))
    for largest in (0, timed_modules.LARGEST):
        run = DirectRun()
        run.device, run.planning = "meta", True
        model = model_of(pair.model.weights.repository.folder, "transformer", kind="meta", device="meta")
        value = model.transformed(Optimize("transformer", True, ()))
        value.acquire("transformer", run)
        gates, before = GateState(), timed_modules.LARGEST
        timed_modules.LARGEST = largest
        try:
            with cost_meter.runtime(run), cost_meter.meter(run) as meter:
                made = []
                for step in list(plan)[:2]:
                    flops = meter.flops
                    denoiser.predict(value, latents, step, on_meta, gates, run)
                    made.append(meter.flops - flops)
                peaks.append(meter.live)
                operations.append(made)
        finally:
            timed_modules.LARGEST = before
        once = value.component("transformer").once
    assert peaks[1] - peaks[0] >= steps * once.modulation_bytes
    (plain_first, plain), (first, second) = operations
    assert first > plain_first
    assert second < plain


@pytest.mark.parametrize("batched", [False, True])
def test_the_counted_work_of_the_first_step_is_that_of_all_steps(pair, batched):
    """A run multiplies what it counted in one call by the number of calls."""
    prepared, meter, works = pair.prepare(steps=9, batched=batched), OperationMeter(), []
    each = predictions(pair.quick, prepared, starts(pair, prepared))
    for _ in range(3):
        meter.begin(math.inf, {})
        next(each)
        works.append(meter.end().work)
    assert works[0].flops == works[1].flops == works[2].flops
    assert works[0].bytes == pytest.approx(works[1].bytes, rel=0.03)  # some norms are laid out at the first call


def test_a_run_that_knows_the_fastest_attention_has_the_same_bits(pair, monkeypatch):
    """As a resumed one does. The first call computes with another backend, and keeps nothing that attention made."""
    candidates, names = ("native", "_native_math"), []

    monkeypatch.setattr(tuning, "fastest", lambda *_: tuning.Choice(candidates[1], {}, 0.0))
    registry = attention_dispatch._AttentionBackendRegistry
    math = attention_dispatch.AttentionBackendName._NATIVE_MATH
    native = registry._backends[attention_dispatch.AttentionBackendName.NATIVE]
    monkeypatch.setitem(registry._backends, math, lambda *a, **k: names.append("math") or 1.01 * native(*a, **k))
    run = DirectRun()
    value = pair.model.transformed(Optimize("transformer", True, candidates))
    value.acquire("transformer", run)
    try:
        prepared = pair.prepare(steps=4)
        latents = starts(pair, prepared)
        measured, known = (list(predictions(value, prepared, latents, first, run)) for first in (0, 1))
    finally:
        value.release("transformer")
    assert names
    for ours, theirs in zip(measured[1:], known, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_tables_are_gone_at_the_end_of_a_loop(pair, monkeypatch):
    """At once, without a collection of garbage: they take as much memory as some layers."""
    found: list[weakref.ref[Any]] = []
    original = Table.__init__

    def noted(self: Table, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        found.append(weakref.ref(self.whole))

    monkeypatch.setattr(Table, "__init__", noted)
    prepared = pair.prepare(steps=3)
    latents = starts(pair, prepared)
    gc.collect()
    gc.disable()
    try:
        list(predictions(pair.quick, prepared, latents))
        assert found
        assert [alive() for alive in found] == [None] * len(found)
    finally:
        gc.enable()
