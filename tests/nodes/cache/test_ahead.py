"""Facts known ahead: masks, schedules, and that a plan prints what the run then follows."""

from __future__ import annotations

from pathlib import Path

import pytest
import sgd
import torch
from helpers import node_facts, oracle_scm
from helpers.direct import BOTH, DirectRun, model_of, sample
from sgd.graph.contract.errors import NodeError
from sgd.graph.contract.node import Here
from sgd.graph.runtime.estimate import estimate
from sgd.nodes import cfg, latents, schedule, text
from sgd.nodes.cache.engine.decide import Decider, outlook, polynomial
from sgd.nodes.cache.engine.decide import schedule as ahead
from sgd.nodes.cache.gate import Gate, Limits, Mask
from sgd.nodes.cache.masks import from_bins, mask_of, preset_mask
from sgd.nodes.cache.methods.custom_gate import gate as custom
from sgd.nodes.cache.methods.dbcache import dbcache
from sgd.nodes.cache.methods.magcache import magcache
from sgd.nodes.cache.methods.scm import scm
from sgd.nodes.cache.methods.teacache import teacache

EMBEDDED = Path(sgd.__file__).parent / "workflows" / "models" / "tiny-wan"
WORKFLOW = """
sgd: 1
name: gated
inputs:
  prompt: {{type: str, default: a large red circle moving right on a blue background}}
nodes:
  model: {{uses: model.load, with: {{source: {source}}}}}
  text: {{uses: text.encode, with: {{model: $model, prompt: $prompt, max_length: 32}}}}
  noise: {{uses: latents.noise, with: {{model: $model, width: 32, height: 32, frames: 5}}}}
  schedule: {{uses: schedule.make, with: {{model: $model, steps: {steps}}}}}
  gate: {{uses: {gate}}}
  denoise:
    for: {{step: $schedule}}
    carry: {{latents: $noise}}
    body:
      split: {{uses: cfg.split, with: {{conditioning: $text, scale: 4, stop: {stop}}}}}
      predict:
        uses: denoiser.predict
        with: {{model: $model, latents: $latents, step: $step, branches: $split, gate: $gate}}
      guide: {{uses: cfg.merge, with: {{predictions: $predict, branches: $split}}}}
      next: {{uses: schedule.step, with: {{schedule: $schedule, step: $step, latents: $latents, velocity: $guide}}}}
    yield: {{latents: $next}}
  file: {{uses: latents.save, with: {{latents: $denoise, path: latents.safetensors}}}}
outputs: {{file: $file}}
"""


def test_masks_are_those_of_cache_dit():
    for (preset, steps), expected in oracle_scm.masks().items():
        assert preset_mask(preset, steps) == expected, (preset, steps)


@pytest.mark.parametrize("bins", [([8, 3, 3, 2, 2], [1, 2, 2, 2, 3]), ([4, 1, 1], [3, 5]), ([3], [9])])
def test_bins_are_those_of_cache_dit(bins):
    for steps in range(1, sum(map(sum, bins)) + 1):
        compute, reuse = bins
        assert from_bins(compute, reuse, steps) == oracle_scm.from_bins(list(compute), list(reuse), steps)


def test_masks_that_cannot_be_made():
    with pytest.raises(ValueError, match="3 digits, and the loop takes 4"):
        mask_of(Mask(digits="110"), 4)
    with pytest.raises(ValueError, match="have 5 steps, and the loop takes 9"):
        mask_of(Mask(compute_bins=(3, 1), reuse_bins=(1,)), 9)
    for steps in range(1, 8):
        with pytest.raises(ValueError, match="8 steps and more"):
            preset_mask("fast", steps)
    assert preset_mask("none", 3) == "111"
    assert mask_of(Mask(every=3), 8) == "10010010"


@pytest.mark.parametrize(
    ("make", "options"),
    [
        (dbcache, {"mask": ""}),
        (dbcache, {"mask": "", "policy": "static"}),
        (scm, {"mask": ""}),
        (scm, {"compute_bins": [], "reuse_bins": []}),
        (scm, {"compute_bins": [3], "reuse_bins": []}),
        (scm, {"preset": "fast", "mask": ""}),
        (teacache, {"coefficients": []}),
        (teacache, {"coefficients": [], "table": Path("table.json")}),
        (magcache, {"ratios": []}),
        (custom, {"rule": "polynomial", "signal": "modulated", "threshold": 0.1, "coefficients": []}),
        (custom, {"rule": "magnitude", "threshold": 0.1, "ratios": []}),
    ],
    ids=lambda value: value.node.name if hasattr(value, "node") else str(value),
)
def test_an_empty_value_is_not_a_missing_one(make, options):
    """Without its digits or numbers a gate would take those of its defaults, or reuse everything."""
    own = {name for name, value in options.items() if value in ("", [])}
    defaults = {name: given.default for name, given in make.node.inputs.items()}
    problem, *_ = node_facts.check(make, **(defaults | options))
    assert problem.code == "bad-value"
    assert problem.parameter in {*own, "preset"}
    with pytest.raises(NodeError):
        make(Here("gate"), **options)


def test_polynomials_are_those_of_numpy():
    import numpy

    coefficients = [733.2, -401.1, 67.6, -3.15, 0.096]
    for x in (0.0, 0.03, 0.2, 1.5):
        assert polynomial(coefficients, x) == pytest.approx(float(numpy.poly1d(coefficients)(x)), rel=1e-12)


def test_limits_come_in_order():
    """First a warm-up, then the mask, then limits, then the rule; a mask ends the warm-up."""
    gate = Gate(
        "gate",
        rule="change",
        signal="front",
        threshold=0.5,
        mask=Mask(digits="1100000001", policy="dynamic"),
        limits=Limits(warmup_steps=5, max_consecutive=2, max_reused=4),
    )
    decider, reasons = Decider(gate, 10), []
    for index in range(10):
        decision = decider.forced(index) or decider.judge(index, 0.9 if index == 6 else 0.1)
        decider.follow(index, decision)
        reasons.append((decision.computed, decision.reason))
    assert reasons == [
        (True, "first"),
        (True, "warm-up"),
        (False, "rule"),
        (False, "rule"),
        (True, "longest run"),
        (False, "rule"),
        (True, "rule"),
        (False, "rule"),
        (True, "most reused"),
        (True, "mask"),
    ]


def test_numbers_that_are_none_compute():
    gate = Gate("gate", rule="change", signal="front", threshold=0.5)
    decider = Decider(gate, 4)
    decider.follow(0, decider.forced(0))
    assert decider.judge(1, float("nan")).computed
    assert decider.judge(1, float("inf")).computed
    curved = Gate("gate", rule="polynomial", signal="front", threshold=0.5, coefficients=(1.0, 0.0))
    decider = Decider(curved, 4)
    assert decider.judge(1, float("nan")).computed


def test_clamping_keeps_a_negative_polynomial_from_hiding_changes():
    free, clamped = (
        Decider(Gate("g", rule="polynomial", threshold=1.0, coefficients=(1.0, -0.5), clamp=c), 9)
        for c in (False, True)
    )
    assert [free.judge(i, x).value for i, x in enumerate((0.1, 1.0))] == pytest.approx([-0.4, 0.1])
    assert [clamped.judge(i, x).value for i, x in enumerate((0.1, 1.0))] == pytest.approx([0.0, 0.5])


def test_an_outlook_shows_only_certain_steps():
    assert outlook(dbcache(Here("g"), warmup_steps=3), 8, "positive", range(8)) == "111?????"
    gate = scm(Here("g"), mask="11011001", policy="dynamic")
    assert outlook(gate, 8, "positive", range(8)) == "11?11??1"


@pytest.mark.parametrize(
    "gate",
    [
        "cache.scm, with: {preset: fast}",
        "cache.fora, with: {every: 3}",
        "cache.dbcache, with: {threshold: 1, warmup_steps: 4, max_consecutive: 2}",
        "cache.teacache, with: {coefficients: [1, 0], threshold: 0.6}",
        "cache.teacache, with: {coefficients: [1, 0], threshold: 0.3, retention_steps: true}",
        "cache.magcache, with: {ratios: [1, .99, .98, .97, .99, .98, .99, .97, .98, .96, .9, .8], threshold: .05}",
    ],
)
def test_a_plan_prints_the_schedule_that_the_run_follows(tmp_path, gate):
    file = tmp_path / "gated.yaml"
    file.write_text(WORKFLOW.format(source=EMBEDDED, steps=12, gate=gate, stop=0.75))
    plan = sgd.compile(file)
    detail = next(row["detail"] for row in estimate(plan)["nodes"] if row["name"] == "denoise.predict")
    record = sgd.run(plan, out=tmp_path / "out").record
    followed = {total["branch"]: total["steps"] for total in record["gate_totals"]}
    assert detail["computed"] == followed["positive"]
    assert detail["computed_negative"] == followed["negative"]
    assert (len(followed["positive"]), len(followed["negative"])) == (12, 9)
    assert "0" in followed["positive"]


def test_a_plan_counts_only_computed_steps(tmp_path):
    flops = {}
    for name, gate in (("all", "cache.none"), ("third", "cache.fora, with: {every: 3}"), ("open", "cache.dbcache")):
        file = tmp_path / f"{name}.yaml"
        file.write_text(WORKFLOW.format(source=EMBEDDED, steps=12, gate=gate, stop=1))
        row = next(row for row in estimate(sgd.compile(file))["nodes"] if row["name"] == "denoise.predict")
        flops[name] = row["flops"]
    # Embeddings and projections are not in the blocks, and always computed.
    assert 1 / 3 < flops["third"] / flops["all"] < 0.37
    assert flops["open"] == flops["all"], "what is not known is counted as computed"


def test_two_experts_with_a_gate_each(tmp_path):
    """A gate counts the steps of its own component, and its mask is over these."""
    from helpers import tiny

    folder = tiny.save("wan", tmp_path / "experts", layers=4, experts=2, boundary_ratio=0.9)
    high = model_of(folder)
    from sgd.nodes.models.nodes.model_expert import expert

    low = expert(high, "transformer_2")
    with torch.no_grad():
        conditioning = text.encode(DirectRun(), BOTH, high, ["a cat"], negative=[""], max_length=16)
        start = latents.noise(high, width=32, height=32, frames=9, seed=[0])
        plan = schedule.make(high, steps=12)
        branches = cfg.split(conditioning, scale=5.0)
        above = sum(step.timestep >= 900 for step in plan)
        assert 2 < above < 10
        masks = ("1" + "0" * (above - 1), "11" + "0" * (10 - above))
        run = DirectRun()
        gates = [scm(Here(name), mask=mask, front_blocks=0) for name, mask in zip(("high", "low"), masks, strict=True)]
        options = {"model_below": low, "boundary": 0.9, "gate": gates[0], "gate_below": gates[1], "run": run}
        sample(high, plan, start, branches, **options)
        whole = scm(Here("high"), mask="1" * 12, front_blocks=0)
        with pytest.raises(NodeError, match=rf"{above} of 12 steps are those of transformer\)"):
            sample(high, plan, start, branches, **{**options, "gate": whole, "gate_below": whole})
    totals = {(d["component"], d["gate"], d["branch"]): d["steps"] for kind, d in run.events if kind == "gate_total"}
    assert totals == {
        (component, gate, branch): mask
        for component, gate, mask in (("transformer", "high", masks[0]), ("transformer_2", "low", masks[1]))
        for branch in ("positive", "negative")
    }
    rows = [d["step"] for kind, d in run.events if kind == "gate" and d["component"] == "transformer_2"]
    assert sorted(set(rows)) == list(range(above, 12)), "the record names the steps of the schedule"


def test_published_numbers_are_found_for_the_bundled_models():
    """The gates of full-size models resolve to the published numbers, without a weight file."""
    import numpy
    from diffusers.hooks.mag_cache import FLUX_MAG_RATIOS
    from sgd.nodes.cache.gate_place import Place
    from sgd.nodes.cache.resolved_gate import resolve
    from sgd.nodes.families import by_pipeline
    from sgd.nodes.models.repository.repository import find

    def place(source, steps=50, **options):
        repository = find(source)
        parts = [p for p in ("transformer", "transformer_2") if p in repository.components]
        configs = {"model_index": repository.index, **{part: repository.config(part) for part in parts}}
        return Place(by_pipeline(repository.pipeline), configs, source, steps, **options)

    made = resolve(teacache(Here("g")), place("Wan-AI/Wan2.1-T2V-1.3B-Diffusers"))
    assert (made.signal, made.threshold, len(made.coefficients)) == ("time", 0.05, 5)
    assert made.coefficients[0] == pytest.approx(2.39676752e03)
    made = resolve(teacache(Here("g")), place("hunyuanvideo-community/HunyuanVideo"))
    assert (made.signal, made.threshold) == ("modulated", 0.1)
    made = resolve(magcache(Here("g")), place("black-forest-labs/FLUX.1-dev", steps=28))
    assert numpy.allclose(made.ratios["positive"], FLUX_MAG_RATIOS.tolist(), atol=1e-5)
    low = resolve(magcache(Here("g")), place("Wan-AI/Wan2.2-T2V-A14B-Diffusers", 20, component="transformer_2"))
    assert {len(ratios) for ratios in low.ratios.values()} == {20}
    for source in ("Tongyi-MAI/Z-Image-Turbo", "Wan-AI/Wan2.2-T2V-A14B-Diffusers"):
        with pytest.raises(NodeError, match="no coefficients were published"):
            resolve(teacache(Here("g")), place(source))


def test_a_residual_older_than_the_last_computed_step_is_not_reused():
    """What step 0 added was kept for step 1, and nothing of step 2: with 3 left out, 4 has nothing to reuse."""
    from sgd.nodes.cache.engine.predictors import Taylor, update
    from sgd.nodes.cache.engine.row_cache import RowCache

    gate = scm(Here("g"), mask="10110")
    known = ahead(gate, 5, "positive", range(5))
    cache = RowCache(Decider(gate, 5), known, Taylor(0), Taylor(0))
    reasons = []
    for index in (0, 1, 2, 4):
        decision = cache.forced(index)
        cache.take(index, decision)
        if decision.computed and cache.remembers(index):
            update([cache.hidden], index, torch.zeros(1, 1, 1))
        reasons.append((decision.computed, decision.reason))
    assert reasons == [(True, "first"), (False, "mask"), (True, "mask"), (True, "unforeseen")]
