"""`cache.tuned` on small models: the same latents as the method written on latents, and its errors."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from helpers.direct import BOTH, DirectRun, model_of, sample
from sgd.graph.contract.errors import NodeError
from sgd.graph.contract.workflow_folders import bundled_workflows
from sgd.nodes import cfg, latents, schedule, text
from sgd.nodes.cache.gate import Gate, Mask
from sgd.nodes.cache.gate_tables import table_problem
from sgd.nodes.cache.methods.tuned_gate import tuned
from sgd.nodes.cache.table_use import of_model
from sgd.nodes.cache.tuning.step_plan import StepPlan
from sgd.nodes.cache.tuning.tuned_table import TunedTable

FOLDER = bundled_workflows() / "models" / "tiny-wan"
STEPS, SCALE, MASK = 8, 4.0, "11010010"
PREDICTED = {2: (1.5, -0.5), 4: (1.25, -0.25), 5: (1.5, -0.5), 7: (1.2, -0.2)}
# The weights of the corrected velocities, of the computed step that ends the gap and of the one before the gap.
AFTER = {2: (0.5, 0.5), 4: (0.3, 0.7), 5: (0.6, 0.4)}


@pytest.fixture(scope="module")
def model():
    return model_of(FOLDER)


@pytest.fixture(scope="module")
def setting(model):
    with torch.no_grad():
        prompts = ["a large red circle moving right on a blue background", "a small green square"]
        conditioning = text.encode(DirectRun(), BOTH, model, prompts, negative=[""], max_length=32)
        start = latents.noise(model, width=48, height=48, frames=9, batch=2, seed=[0, 1])
        return SimpleNamespace(conditioning=conditioning, start=start, plan=schedule.make(model, steps=STEPS))


def folded(deltas: list[float]) -> StepPlan:
    """The plan of `AFTER` as weights of the velocity of the computed step."""
    corrected: dict[int, tuple[float, ...]] = {}
    for end, gap in ((3, (2,)), (6, (4, 5))):
        own = sum(deltas[i] * AFTER[i][0] for i in gap)
        last = sum(deltas[i] * (AFTER[i][1] - PREDICTED[i][0]) for i in gap)
        before = sum(deltas[i] * -PREDICTED[i][1] for i in gap)
        corrected[end] = (own / deltas[end], last / deltas[end], before / deltas[end])
    return StepPlan(MASK, PREDICTED, corrected)


def by_latents(model, setting, scale: float) -> torch.Tensor:
    """The method on latents: at a computed step, the reused steps before it are taken again with better velocities."""
    branches = cfg.split(setting.conditioning, scale=scale)
    sigmas = [step.sigma for step in setting.plan] + [0.0]
    now = setting.start.tensor
    known: list[torch.Tensor] = []
    gap: list[tuple[int, torch.Tensor]] = []
    with torch.no_grad():
        for step in setting.plan:
            delta = sigmas[step.index + 1] - sigmas[step.index]
            if MASK[step.index] == "1":
                given = type(setting.start)(now, setting.start.family, setting.start.size)
                velocity = guided(model, given, step, branches)
                for index, used in gap:
                    own, last = AFTER[index]
                    now = now + (sigmas[index + 1] - sigmas[index]) * (own * velocity + last * known[-1] - used)
                known, gap = [*known, velocity], []
            else:
                last, before = PREDICTED[step.index]
                velocity = last * known[-1] + before * known[-2]
                gap.append((step.index, velocity))
            now = now + delta * velocity
    return now


def guided(model, given, step, branches):
    from helpers.direct import predict
    from sgd.nodes.cfg import GuiderState

    return cfg.merge(predict(model, given, step, branches), branches, GuiderState()).tensor


def gate_of(plan: StepPlan) -> Gate:
    return Gate("tuned", name="gate", signal="model", plan=plan, mask=Mask(digits=plan.mask))


@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize("scale", [SCALE, 1.0])
def test_the_latents_of_the_method(model, setting, batched, scale):
    sigmas = [step.sigma for step in setting.plan] + [0.0]
    plan = folded([after - before for before, after in pairwise(sigmas)])
    run = DirectRun()
    with torch.no_grad():
        branches = cfg.split(setting.conditioning, scale=scale, batched=batched)
        found = sample(model, setting.plan, setting.start, branches, gate=gate_of(plan), run=run)[-1].tensor
    wanted = by_latents(model, setting, scale)
    assert (found - wanted).abs().max() <= 2e-5 * wanted.abs().max()
    steps = {data["steps"] for kind, data in run.events if kind == "gate_total"}
    assert steps == {MASK}


def table(model, setting, folder: Path, **changes) -> Path:
    """A table with two plans for the model. Their worst clips keep 32 dB and 45 dB, and their bounds are 30 and 46."""
    rest = {"median": 50.0, "mean": 50.0, "deviation": 1.0, "clips": 4}
    step = next(iter(setting.plan))
    use = of_model(model, step, tuple(range(STEPS)), None, DirectRun())
    identity = {name: getattr(use, name) for name in ("class_name", "config", "weights")}
    plans: list[dict[str, Any]] = [
        {"mask": "11000010", "predicted": {step: [1.0, 0.0] for step in (2, 3, 4, 5, 7)}, "psnr": (32.0, 30.0)},
        {"mask": MASK, "predicted": {step: list(found) for step, found in PREDICTED.items()}, "psnr": (45.0, 46.0)},
    ]
    content: dict[str, Any] = {
        "sgd_tuned": 1,
        "model": {"source": "x", "commit": None, "family": "wan"},
        "component": "transformer",
        "identity": {**identity, "dtype": "float32", "adapters": []},
        "schedules": [
            {
                "scheduler": use.scheduler,
                "timesteps": list(use.timesteps or ()),
                "size": [48, 48, 9],
                "scale": SCALE,
                "measured": ["a"],
                "chosen": ["b"],
                "seeds": "one for each clip",
                "made": {},
                "plans": [
                    {
                        **p,
                        "corrected": {},
                        "psnr": {**dict(zip(("worst", "bound"), p["psnr"], strict=True)), **rest},
                    }
                    for p in plans
                ],
            }
        ],
    }
    content["identity"] |= changes.pop("identity", {})
    content["schedules"][0] |= changes
    TunedTable.model_validate(content)
    path = folder / "table.json"
    path.write_text(json.dumps(content))
    return path


def denoise(model, setting, gate, steps=None, scheduler="auto", **split):
    run = DirectRun()
    plan = setting.plan if steps is None else schedule.make(model, steps=steps, scheduler=scheduler)
    with torch.no_grad():
        branches = cfg.split(setting.conditioning, scale=split.pop("scale", SCALE), **split)
        made = sample(model, plan, setting.start, branches, gate=gate, run=run)[-1].tensor
    return made, run


@pytest.mark.parametrize(("psnr", "mask"), [(30, "11000010"), (31, MASK), (45, MASK)])
def test_the_cheapest_plan_that_keeps_the_psnr(model, setting, tmp_path, psnr, mask):
    _, run = denoise(model, setting, tuned("gate", table=table(model, setting, tmp_path), psnr=psnr))
    assert {data["steps"] for kind, data in run.events if kind == "gate_total"} == {mask}


def test_a_psnr_that_no_plan_keeps_is_an_error(model, setting, tmp_path):
    with pytest.raises(NodeError, match="keeps 50 dB; the best keeps 45"):
        denoise(model, setting, tuned("gate", table=table(model, setting, tmp_path), psnr=50))


def test_other_numbers_of_steps_are_computed_with_one_warning(model, setting, tmp_path):
    gate = tuned("gate", table=table(model, setting, tmp_path), psnr=40)
    made, run = denoise(model, setting, gate, steps=4)
    bare, _ = denoise(model, setting, None, steps=4)
    assert torch.equal(made, bare)
    assert len(run.warnings) == 1
    assert "computes every step of transformer: " in run.warnings[0]
    assert "covers 8 steps, and the loop takes 4" in run.warnings[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"guider": "apg"}, "the guider `apg` is not linear"),
        ({"guider": "cfg_zero_star"}, "the guider `cfg_zero_star` is not linear"),
        ({"rescale": 0.5}, "`rescale` scales the guided velocity"),
        ({"stop": 0.5}, "some steps are guided and others are not"),
        ({"steps": STEPS, "scheduler": "unipc"}, "needs Euler's step, and the workflow uses UniPC"),
    ],
)
def test_what_the_method_cannot_do_is_an_error(model, setting, tmp_path, options, message):
    with pytest.raises(NodeError, match=message):
        denoise(model, setting, tuned("gate", table=table(model, setting, tmp_path), psnr=40), **options)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"identity": {"weights": "sha256:0"}}, "was made for other weights"),
        ({"identity": {"class_name": "Other"}}, "was made for a Other"),
        ({"timesteps": [float(1000 - i) for i in range(STEPS)]}, "was made for other timesteps"),
    ],
)
def test_the_table_of_another_model_or_schedule_is_an_error(model, setting, tmp_path, changes, message):
    with pytest.raises(NodeError, match=message):
        denoise(model, setting, tuned("gate", table=table(model, setting, tmp_path, **changes), psnr=40))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ({"sgd_tuned": 2}, "a table of version 2"),
        ({"sgd_table": 1, "sgd_tuned": None}, "has no `sgd_tuned`"),
        ({"schedules": []}, "a damaged table: schedules"),
    ],
)
def test_a_damaged_table_is_an_error(model, setting, tmp_path, damage, message):
    path = table(model, setting, tmp_path)
    path.write_text(json.dumps({**json.loads(path.read_text()), **damage}))
    with pytest.raises(NodeError, match=message):
        denoise(model, setting, tuned("gate", table=path, psnr=40))


@pytest.mark.parametrize("content", [None, "", "{", "{}", '{"sgd_tuned": 2}', '{"sgd_tuned": 1}'])
def test_a_table_that_cannot_be_read_is_made_by_tune(tmp_path, content):
    path = tmp_path / "table.json"
    if content is not None:
        path.write_text(content)
    found = table_problem("tuned", path)
    assert found is not None
    assert found.help == "make a table for this model and schedule with `sgd tune`"
