"""Guidance: the branches that run at each step, and merging, compared with diffusers' guiders."""

import logging
from dataclasses import replace
from typing import Any

import pytest
import torch
from diffusers import guiders
from helpers import node_facts
from helpers.direct import generate
from sgd.graph.contract.errors import NodeError
from sgd.nodes import cfg
from sgd.nodes.cfg import GuiderState
from sgd.nodes.values import Conditioning, Predictions, Step

STEPS = 10


def conditioning():
    return Conditioning(
        {"encoder_hidden_states": torch.zeros(1, 4, 8)}, {"encoder_hidden_states": torch.ones(1, 4, 8)}, "wan"
    )


def step(index, count=STEPS):
    return Step(index, count, 1 - index / count, 1000 * (1 - index / count), torch.tensor(1000 - 100 * index))


def predictions(index, names, seed=0):
    generator = torch.Generator().manual_seed(100 * seed + index)
    both = {name: torch.randn(2, 4, 3, 6, 5, generator=generator) for name in ("positive", "negative")}
    return Predictions({name: both[name] for name in names}, step(index))


def merged(branches, seed=0, state=None, count=STEPS):
    state = state or GuiderState()
    return [cfg.merge(predictions(i, branches.active(step(i)), seed), branches, state).tensor for i in range(count)]


def merged_by_diffusers(guider, seed=0):
    """The predictions of every step, merged by a guider as in diffusers' modular pipelines."""
    results = []
    for i in range(STEPS):
        both = predictions(i, ("positive", "negative"), seed).branches
        guider.set_state(step=i, num_inference_steps=STEPS, timestep=step(i).value)
        shape = both["positive"].shape
        if isinstance(guider, guiders.MagnitudeAwareGuidance):  # takes at most three dimensions
            both = {name: prediction.flatten(1) for name, prediction in both.items()}
        batches = guider.prepare_inputs({"latents": (both["positive"], both["negative"])})
        for batch in batches:
            batch.noise_pred = batch.latents
        results.append(guider(batches).pred.reshape(shape))
    return results


CASES = {
    "cfg": ({}, guiders.ClassifierFreeGuidance),
    "cfg-rescale": ({"rescale": 0.7}, lambda s, **i: guiders.ClassifierFreeGuidance(s, guidance_rescale=0.7, **i)),
    "apg": ({}, guiders.AdaptiveProjectedGuidance),
    "apg-momentum": (
        {"momentum": -0.75, "norm_threshold": 2.5, "eta": 0.2},
        lambda s, **i: guiders.AdaptiveProjectedGuidance(
            s,
            adaptive_projected_guidance_momentum=-0.75,
            adaptive_projected_guidance_rescale=2.5,
            eta=0.2,
            **i,
        ),
    ),
    "cfg_zero_star": ({}, guiders.ClassifierFreeZeroStarGuidance),
    "cfg_zero_star-3": (
        {"zero_init_steps": 3},
        lambda s, **i: guiders.ClassifierFreeZeroStarGuidance(s, zero_init_steps=3, **i),
    ),
    "tcfg": ({}, guiders.TangentialClassifierFreeGuidance),
    "mag": ({"alpha": 3.0}, lambda s, **i: guiders.MagnitudeAwareGuidance(s, alpha=3.0, **i)),
}


@pytest.mark.parametrize("interval", [(0.0, 1.0), (0.25, 0.8)], ids=["always", "interval"])
@pytest.mark.parametrize("case", CASES)
def test_merging_equals_diffusers_guiders(case, interval):
    options, make = CASES[case]
    start, stop = interval
    branches = cfg.split(conditioning(), scale=4.0, guider=case.split("-")[0], start=start, stop=stop, **options)
    for ours, theirs in zip(merged(branches), merged_by_diffusers(make(4.0, start=start, stop=stop)), strict=True):
        assert torch.equal(ours, theirs)


def test_each_guider_differs_from_plain_guidance():
    plain = merged(cfg.split(conditioning(), scale=4.0))
    for guider in ("apg", "cfg_zero_star", "tcfg", "mag"):
        other = merged(cfg.split(conditioning(), scale=4.0, guider=guider))
        assert not torch.allclose(plain[5], other[5]), guider


def test_merging_finds_branches_by_name_and_uses_only_active_ones():
    branches = cfg.split(conditioning(), scale=4.0, start=0.5)
    for i in (0, 7):
        given = predictions(i, ("positive", "negative"))
        turned = Predictions(dict(reversed(given.branches.items())), given.step)
        expected = cfg.merge(predictions(i, branches.active(step(i))), branches, GuiderState())
        assert torch.equal(cfg.merge(turned, branches, GuiderState()).tensor, expected.tensor)


def test_momentum_does_not_leak_between_runs_of_a_loop():
    branches = cfg.split(conditioning(), scale=4.0, guider="apg", momentum=-0.5)
    alone = merged(branches)
    merged(branches, seed=7)  # another run of the loop, with its own state
    assert all(map(torch.equal, alone, merged(branches)))
    state = GuiderState()
    merged(branches, seed=7, state=state)
    assert not torch.equal(alone[0], merged(branches, state=state)[0])  # the state keeps momentum


def test_a_change_of_scale_within_a_loop_keeps_the_momentum():
    branches = cfg.split(conditioning(), scale=4.0, guider="apg", momentum=-0.5)
    guider = guiders.AdaptiveProjectedGuidance(4.0, adaptive_projected_guidance_momentum=-0.5)
    state = GuiderState()
    for i in range(6):
        scale = 4.0 if i < 3 else 2.0
        guider.guidance_scale = scale
        both = predictions(i, ("positive", "negative"))
        guider.set_state(step=i, num_inference_steps=STEPS, timestep=None)
        guider.prepare_inputs({})
        expected = guider.forward(both.branches["positive"], both.branches["negative"]).pred
        assert torch.equal(cfg.merge(both, replace(branches, scale=scale), state).tensor, expected)


@pytest.mark.parametrize("count", [1, 3, 10, 50])
@pytest.mark.parametrize("interval", [(0.0, 1.0), (0.1, 0.55), (0.5, 0.5), (0.0, 0.0), (0.33, 1.0)])
def test_the_guidance_interval_equals_diffusers_interval(interval, count):
    start, stop = interval
    branches = cfg.split(conditioning(), scale=4.0, start=start, stop=stop)
    guider = guiders.ClassifierFreeGuidance(4.0, start=start, stop=stop)
    for i in range(count):
        guider.set_state(step=i, num_inference_steps=count, timestep=None)
        assert len(branches.active(step(i, count))) == guider.num_conditions


@pytest.mark.parametrize("scale", [1.0, 0.5, 0.0, -1.0])
def test_a_neutral_scale_runs_one_branch_and_changes_nothing(scale):
    branches = cfg.split(replace(conditioning(), negative=None), scale=scale)
    for i in range(STEPS):
        assert branches.active(step(i)) == ("positive",)
        given = predictions(i, ("positive",))
        assert cfg.merge(given, branches, GuiderState()).tensor is given.branches["positive"]


def test_steps_outside_of_the_interval_do_not_evaluate_the_negative_branch(wan_model):
    calls = []
    transformer = wan_model.component("transformer")
    hook = transformer.register_forward_hook(lambda *_: calls.append(1))
    try:
        generate(wan_model, ["a cat"], steps=4, start=0.25, stop=0.75)
    finally:
        hook.remove()
    assert len(calls) == 1 + 2 + 2 + 1


def reads(**known):
    known = {"start": 0.0, "stop": 1.0} | known
    return set(node_facts.reads(cfg.split, **known)["conditioning"])


def test_a_neutral_scale_does_not_read_the_negative_prompt():
    wan = {"family": "wan"}
    assert reads(conditioning=wan, scale=1.0) == {"positive"}
    assert reads(conditioning=wan, scale=1) == {"positive"}
    assert reads(conditioning=wan, scale=1.01) == {"positive", "negative"}
    assert reads(conditioning=wan, scale=5.0, stop=0.0) == {"positive"}
    # An unknown scale or family may need the negative prompt.
    assert reads(conditioning=wan) == {"positive", "negative"}
    assert reads(scale=1.0) == {"positive", "negative"}


OPTIONS = ("rescale", "momentum", "norm_threshold", "eta", "zero_init_steps", "alpha")


def problems(**known):
    return [
        (p.code, p.parameter)
        for p in node_facts.check(cfg.split, **({"guider": "cfg"} | dict.fromkeys(OPTIONS) | known))
    ]


@pytest.mark.parametrize(
    ("known", "expected"),
    [
        ({}, []),
        ({"momentum": -0.5}, [("bad-value", "momentum")]),
        ({"guider": "apg", "momentum": -0.5}, []),
        (
            {"guider": "apg", "alpha": 8.0, "zero_init_steps": 1},
            [("bad-value", "zero_init_steps"), ("bad-value", "alpha")],
        ),
        ({"start": 0.6, "stop": 0.5}, [("bad-value", "stop")]),
        ({"guider": "cfg_zero_star", "rescale": 0.5}, [("unsupported", "rescale")]),
        ({"guider": "cfg_zero_star", "rescale": 0.5, "zero_init_steps": 0}, []),
        ({"embedded": 6.0, "conditioning": {"family": "wan"}}, [("unsupported", "embedded")]),
    ],
)
def test_check_finds_wrong_options(known, expected):
    assert problems(**known) == expected


def test_run_and_check_refuse_the_same_values():
    with pytest.raises(NodeError, match="no parameter momentum"):
        cfg.split(conditioning(), scale=4.0, momentum=-0.5)
    with pytest.raises(NodeError, match="take no guidance scale"):
        cfg.split(conditioning(), scale=4.0, embedded=6.0)


def test_rescaling_a_prediction_of_zeros_gives_nan_in_diffusers():
    """cfg_zero_star refuses `rescale` for this reason. If this test fails, diffusers supports it, and sgd can too."""
    guider = guiders.ClassifierFreeZeroStarGuidance(4.0, guidance_rescale=0.5)
    guider.set_state(step=0, num_inference_steps=STEPS, timestep=None)
    given = predictions(0, ("positive", "negative")).branches
    assert guider.forward(given["positive"], given["negative"]).pred.isnan().all()


def test_the_error_names_a_branch_without_prediction():
    branches = cfg.split(conditioning(), scale=4.0)
    with pytest.raises(NodeError, match="negative branch"):
        cfg.merge(predictions(0, ("positive",)), branches, GuiderState())


@pytest.mark.parametrize("guider", cfg.GUIDERS)
def test_planning_merges_meta_tensors(guider):
    branches = cfg.split(conditioning(), scale=4.0, guider=guider)
    state, meta = GuiderState(), {n: torch.empty(1, 4, 3, 6, 5, device="meta") for n in ("positive", "negative")}
    for i in range(2):
        made = cfg.merge(Predictions(meta, step(i)), branches, state).tensor
        assert made.is_meta
        assert made.shape == (1, 4, 3, 6, 5)


def test_making_a_guider_is_silent_and_keeps_the_log_level():
    logger = logging.getLogger("diffusers.guiders.guider_utils")
    heard, before = [], logger.level
    handler: Any = logging.Handler()
    handler.emit = lambda record: heard.append(record.getMessage())
    logger.addHandler(handler)
    logger.setLevel(logging.WARNING)
    try:
        merged(cfg.split(conditioning(), scale=4.0))
        assert heard == []
        assert logger.level == logging.WARNING
        guiders.ClassifierFreeGuidance(4.0)
        assert len(heard) == 1  # the warning that users would otherwise read in every run
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)
