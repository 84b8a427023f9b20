"""Gates on the small model that comes with sgd: what cache-dit does on diffusers' pipeline of it."""

from __future__ import annotations

import cache_dit
import pytest
import torch
from diffusers import WanPipeline
from helpers import oracle_cache_dit as oracle
from helpers.direct import BOTH, DirectRun, model_of, sample
from helpers.ours import decisions
from sgd.graph.contract.workflow_folders import bundled_workflows
from sgd.nodes import cfg, latents, schedule, text
from sgd.nodes.cache.methods.cache_dit_options import library
from sgd.nodes.cache.methods.dbcache import dbcache
from sgd.nodes.cache.methods.scm import scm
from sgd.nodes.cache.methods.taylorseer import taylorseer

FOLDER = bundled_workflows() / "models" / "tiny-wan"
PROMPT, SCALE, STEPS = "a large red circle moving right on a blue background", 4.0, 30
SIZE = {"width": 48, "height": 48}
FRAMES, LENGTH = 9, 32
OURS = {"front_blocks": 1, "threshold": 0.15, "warmup_steps": 6, "max_consecutive": 3}
THEIRS = {
    "Fn_compute_blocks": 1,
    "residual_diff_threshold": 0.15,
    "max_warmup_steps": 6,
    "max_continuous_cached_steps": 3,
}


def masked(policy):
    mask = cache_dit.steps_mask(total_steps=STEPS, mask_policy=policy)
    return oracle.config(steps_computation_mask=mask, steps_computation_policy="static", max_warmup_steps=8)


def handed(policy):
    return {
        "Fn_compute_blocks": 1,
        "mask_policy": policy,
        "steps_computation_policy": "static",
        "max_warmup_steps": 8,
    }


TAYLOR = {"enable_taylorseer": True}
GATES = {
    "dbcache": (lambda: dbcache("gate", **OURS), THEIRS, lambda: oracle.config(**THEIRS), None),
    "taylorseer 1": (
        lambda: taylorseer("gate", order=1, **OURS),
        {**THEIRS, **TAYLOR},
        lambda: oracle.config(**THEIRS),
        oracle.taylor(1),
    ),
    "taylorseer 2": (
        lambda: taylorseer("gate", order=2, **OURS),
        {**THEIRS, **TAYLOR, "taylorseer_order": 2},
        lambda: oracle.config(**THEIRS),
        oracle.taylor(2),
    ),
    "scm medium": (lambda: scm("gate", preset="medium"), handed("medium"), lambda: masked("medium"), None),
    "scm fast, taylor 1": (
        lambda: scm("gate", preset="fast", order=1),
        {**handed("fast"), **TAYLOR},
        lambda: masked("fast"),
        oracle.taylor(1),
    ),
}


@pytest.fixture(scope="module")
def model():
    return model_of(FOLDER)


@pytest.fixture(scope="module")
def pipeline(model):
    parts = {part: model.component(part) for part in model.parts() if part != "scheduler"}
    made = WanPipeline(**parts, scheduler=WanPipeline.from_pretrained(FOLDER).scheduler)
    made.set_progress_bar_config(disable=True)
    return made


def run(model, gate):
    """Latents after every step, and decisions by branch."""
    told = DirectRun()
    with torch.no_grad():
        conditioning = text.encode(DirectRun(), BOTH, model, [PROMPT], negative=[""], max_length=LENGTH)
        start = latents.noise(model, **SIZE, frames=FRAMES, seed=[0])
        plan = schedule.make(model, steps=STEPS)
        states = sample(model, plan, start, cfg.split(conditioning, scale=SCALE), gate=gate, run=told)
    return [state.tensor for state in states], decisions(told)


@pytest.mark.parametrize("name", GATES)
def test_the_decisions_and_latents_of_cache_dit(model, pipeline, name):
    ours, options, config, calibrator = GATES[name]
    theirs = oracle.run(
        pipeline,
        config(),
        calibrator,
        steps=STEPS,
        scale=SCALE,
        prompt=PROMPT,
        negative="",
        num_frames=FRAMES,
        max_sequence_length=LENGTH,
        **SIZE,
    )
    for gate in (ours(), library("gate", **options)):
        states, found = run(model, gate)
        for branch, lists in theirs.decisions.items():
            wanted = lists["blocks"]
            assert found[branch].computed == wanted.computed
            assert 3 < len(wanted.cached) < STEPS - 6
        for one, other in zip(states, theirs.latents, strict=True):
            assert (one - other).abs().max() <= 1e-5 * other.abs().max()
