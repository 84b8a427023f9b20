"""TeaCache, MagCache and EasyCache: decisions and latents of straight implementations, on five families."""

from __future__ import annotations

import pytest
import torch
from helpers import oracle_easycache, oracle_magcache, oracle_teacache
from helpers.gate_pipelines import FAMILIES, STEPS
from helpers.ours import Pair
from sgd.graph.contract.node import Here
from sgd.nodes.cache.methods.easycache import easycache
from sgd.nodes.cache.methods.magcache import magcache
from sgd.nodes.cache.methods.teacache import teacache

HERE = Here("gate")
LINEAR = [1.0, 0.0]
CURVED = [4.0, -3.0, 1.5, 0.01]
"""A polynomial of order 3 that grows where the tiny models' signals change."""


@pytest.fixture(scope="module", params=FAMILIES)
def pair(request, tmp_path_factory):
    return Pair(request.param, tmp_path_factory.mktemp("gates") / request.param)


def assert_same(mine, theirs, values=True):
    for branch, expected in theirs.decisions.items():
        made = mine.decisions[branch]
        assert made.computed == expected.computed, branch
        assert 0 < len(made.cached) < STEPS - 1
        for ours, reference in zip(made.distances, expected.distances, strict=True) if values else ():
            if ours is not None and reference is not None:
                assert ours == pytest.approx(reference, rel=1e-5)
    for ours, reference in zip(mine.latents, theirs.latents, strict=True):
        assert torch.allclose(ours, reference, rtol=0, atol=1e-5 * reference.abs().max().item())


def skip_without(pair, method):
    if method not in FAMILIES[pair.family].mixed:
        pytest.skip("not a method for this family")
    return FAMILIES[pair.family].mixed[method]


@pytest.mark.parametrize("coefficients", [LINEAR, CURVED])
def test_teacache_on_the_time_embedding(pair, coefficients):
    threshold = skip_without(pair, "time") * (1 if coefficients == LINEAR else 40)
    gate = teacache(HERE, coefficients=coefficients, threshold=threshold)
    assert_same(
        pair.outcome(gate, **pair.one_by_one),
        oracle_teacache.run(pair.pipeline, coefficients, threshold=threshold, signal="time"),
    )


def test_teacache_with_retention_steps(pair):
    threshold = skip_without(pair, "time_projection")
    gate = teacache(HERE, coefficients=LINEAR, threshold=threshold, retention_steps=True)
    reference = oracle_teacache.run(
        pair.pipeline, LINEAR, threshold=threshold, signal="time_projection", first=5, last=0
    )
    assert_same(pair.outcome(gate, **pair.one_by_one), reference)


def test_teacache_on_the_modulated_input(pair):
    threshold = skip_without(pair, "auto")
    gate = teacache(HERE, coefficients=LINEAR, threshold=threshold)
    assert_same(pair.outcome(gate, **pair.one_by_one), oracle_teacache.run(pair.pipeline, LINEAR, threshold=threshold))


@pytest.mark.parametrize(("threshold", "longest"), [(0.1, 3), (0.03, 8), (1.0, 2)])
def test_magcache(pair, threshold, longest):
    if pair.family == "z-image":
        pytest.skip("diffusers' hook does not take this model")
    ratios = [1.0] + [1 - 0.02 * ((index * 7) % 5) for index in range(STEPS - 1)]
    gate = magcache(HERE, ratios=ratios, threshold=threshold, max_consecutive=longest, retention=0.25)
    reference = oracle_magcache.run(pair.pipeline, ratios, threshold=threshold, longest=longest, retention=0.25)
    assert_same(pair.outcome(gate, **pair.one_by_one), reference, values=False)


def test_easycache(pair):
    threshold = skip_without(pair, "easycache")
    gate = easycache(HERE, threshold=threshold, warmup_steps=2)
    assert_same(
        pair.outcome(gate, **pair.one_by_one), oracle_easycache.run(pair.pipeline, threshold, **pair.one_by_one)
    )
