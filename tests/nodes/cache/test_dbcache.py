"""DBCache, TaylorSeer and SCM: the decisions and the latents of the cache-dit package, on five families."""

from __future__ import annotations

import logging

import cache_dit
import pytest
import torch
from helpers import gate_pipelines, oracle_cache_dit
from helpers.gate_pipelines import FAMILIES, STEPS
from helpers.ours import Pair
from sgd.graph.contract.node import Here
from sgd.nodes.cache.methods.dbcache import dbcache
from sgd.nodes.cache.methods.scm import scm
from sgd.nodes.cache.methods.taylorseer import taylorseer

HERE = Here("gate")
# What cache-dit calls it, and what we do; W is enough for its Taylor expansion, which begins late (see below).
SETTINGS = {
    "plain": ({}, {}),
    "last blocks": ({"Bn_compute_blocks": 1, "Fn_compute_blocks": 2}, {"back_blocks": 1, "front_blocks": 2}),
    "longest run": ({"max_continuous_cached_steps": 2}, {"max_consecutive": 2}),
    "most reused": ({"max_cached_steps": 3}, {"max_reused": 3}),
    "accumulated": ({"max_accumulated_residual_diff_threshold": 0.9}, {"max_accumulated": 0.9}),
    "interval": ({"max_warmup_steps": 8, "warmup_interval": 2}, {"warmup_steps": 8, "warmup_interval": 2}),
    "any change": ({"residual_diff_threshold": 1.0}, {"threshold": 1.0}),
    "none": ({"residual_diff_threshold": 0.0}, {"threshold": 0.0}),
}


@pytest.fixture(scope="module", params=FAMILIES)
def pair(request, tmp_path_factory):
    logging.getLogger("cache_dit").setLevel(logging.ERROR)
    return Pair(request.param, tmp_path_factory.mktemp("gates") / request.param)


def assert_same(mine, theirs, decides=True):
    """Decisions agree in every branch and list, and the latents after every step within 1e-5."""
    for branch, lists in theirs.decisions.items():
        for number, expected in enumerate(lists.values()):
            made = mine.decisions.get((branch, number), mine.decisions.get(branch))
            assert made.computed == expected.computed, (branch, number)
            if decides:
                assert 0 < len(made.cached) < STEPS - 1
    for ours, reference in zip(mine.latents, theirs.latents, strict=True):
        assert torch.allclose(ours, reference, rtol=0, atol=1e-5 * reference.abs().max().item())


def stacks(pair):
    """cache-dit decides for HunyuanVideo's two lists separately, for FLUX's at once."""
    return "separate" if pair.family == "hunyuan-video" else "together"


@pytest.mark.parametrize("name", SETTINGS)
def test_dbcache(pair, name):
    theirs, ours = SETTINGS[name]
    threshold = FAMILIES[pair.family].mixed["dbcache"]
    given = {"front_blocks": 1, "warmup_steps": 3, "threshold": threshold, "stacks": stacks(pair)} | ours
    reference = oracle_cache_dit.run(
        pair.pipeline,
        oracle_cache_dit.config(**({"residual_diff_threshold": threshold} | theirs)),
        **pair.one_by_one,
    )
    assert_same(
        pair.outcome(dbcache(HERE, **given), **pair.one_by_one), reference, decides=name not in ("interval", "none")
    )


@pytest.mark.parametrize("order", [1, 2, 3])
def test_taylorseer(pair, order):
    threshold = FAMILIES[pair.family].mixed["dbcache"]
    # All of cache-dit's derivatives are of equal age from step order + 3 on.
    warm = order + 4
    gate = taylorseer(
        HERE,
        order=order,
        front_blocks=1,
        warmup_steps=warm,
        threshold=threshold,
        max_consecutive=3,
        stacks=stacks(pair),
    )
    cache = oracle_cache_dit.config(
        residual_diff_threshold=threshold, max_warmup_steps=warm, max_continuous_cached_steps=3
    )
    assert_same(
        pair.outcome(gate, **pair.one_by_one),
        oracle_cache_dit.run(pair.pipeline, cache, oracle_cache_dit.taylor(order), **pair.one_by_one),
    )


def test_taylorseer_begins_with_the_second_computed_step(pair):
    """cache-dit's begins with the fourth: after three warm-up steps it takes the last residual as it was."""
    if pair.family not in ("flux", "qwen-image"):
        pytest.skip("where decisions stay the same, the difference is the expansion alone")
    settings = {"front_blocks": 1, "threshold": FAMILIES[pair.family].mixed["dbcache"], "warmup_steps": 3}
    cache = oracle_cache_dit.config(residual_diff_threshold=settings["threshold"])
    theirs = oracle_cache_dit.run(pair.pipeline, cache, oracle_cache_dit.taylor(1))
    held = oracle_cache_dit.run(pair.pipeline, cache, **pair.one_by_one)
    reused = min(theirs.decisions["positive"]["transformer_blocks"].cached)
    expanded, hold = pair.outcome(taylorseer(HERE, **settings)), pair.outcome(dbcache(HERE, **settings))
    assert torch.equal(theirs.latents[reused], held.latents[reused])
    assert torch.equal(hold.latents[reused], held.latents[reused])
    assert not torch.allclose(expanded.latents[reused], held.latents[reused], rtol=0, atol=1e-5)


@pytest.mark.parametrize("preset", ["slow", "fast", "ultra"])
@pytest.mark.parametrize("policy", ["static", "dynamic"])
def test_scm(pair, preset, policy):
    threshold = FAMILIES[pair.family].mixed["dbcache"]
    mask = cache_dit.steps_mask(total_steps=STEPS, mask_policy=preset)
    cache = oracle_cache_dit.config(
        residual_diff_threshold=threshold,
        steps_computation_mask=mask,
        steps_computation_policy=policy,
        num_inference_steps=STEPS,
    )
    given = {"threshold": threshold} if policy == "dynamic" else {}
    gate = scm(HERE, preset=preset, policy=policy, front_blocks=1, stacks=stacks(pair), **given)
    assert_same(pair.outcome(gate, **pair.one_by_one), oracle_cache_dit.run(pair.pipeline, cache, **pair.one_by_one))


def test_scm_with_taylorseer(pair):
    mask = cache_dit.steps_mask(compute_bins=[5, 2, 1, 1], cache_bins=[2, 2, 3], total_steps=STEPS)
    cache = oracle_cache_dit.config(
        steps_computation_mask=mask, steps_computation_policy="static", num_inference_steps=STEPS
    )
    gate = scm(HERE, compute_bins=[5, 2, 1, 1], reuse_bins=[2, 2, 3], order=1, front_blocks=1, stacks=stacks(pair))
    assert_same(
        pair.outcome(gate, **pair.one_by_one),
        oracle_cache_dit.run(pair.pipeline, cache, oracle_cache_dit.taylor(1), **pair.one_by_one),
    )


def test_both_lists_behind_one_gate(pair):
    """One decision on the first list, and what both add is reused: fewer blocks run than where each decides."""
    family = gate_pipelines.FAMILIES[pair.family]
    if len(family.lists) == 1:
        pytest.skip("one list of blocks")
    run = pair.outcome(scm(HERE, preset="fast", front_blocks=1))
    assert set(run.decisions) == {"positive", "negative"}
    from helpers.ours import counted

    with counted(pair.model) as calls:
        pair.run(scm(HERE, preset="fast", front_blocks=1))
    computed = sum(run.decisions["positive"].computed)
    assert calls[0] == 2 * (computed * 12 + (STEPS - computed) * 1)
