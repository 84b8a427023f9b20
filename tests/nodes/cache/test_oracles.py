"""The oracles of the other tests of gates can fail: each at its two ends, and in between."""

from __future__ import annotations

import pytest
import torch
from helpers import oracle_cache_dit, oracle_easycache, oracle_magcache, oracle_scm, oracle_teacache
from helpers.gate_pipelines import FAMILIES, STEPS, Decisions, branches, build, sample, state
from helpers.oracle_cache_dit import config, taylor

SIGNALS = [("wan", "time"), ("wan", "time_projection"), ("hunyuan-video", "auto"), ("flux", "auto")]
HOOKED = [family for family in FAMILIES if family != "z-image"]
RATIOS = [1.0, 1.05, 0.96, 1.03, 0.985, 0.99, 0.98, 1.02, 0.97, 0.99, 1.01, 0.96, 0.95, 0.98, 0.9, 0.8]


@pytest.fixture(scope="module")
def pipelines():
    return {family: build(family) for family in FAMILIES}


@pytest.fixture(scope="module")
def plain(pipelines):
    return {family: sample(pipeline) for family, pipeline in pipelines.items()}


def same(ours, theirs):
    return len(ours) == len(theirs) and all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def assert_mixed(decisions: Decisions, threshold: float):
    """Some steps computed and some reused for what was compared, and nothing so near that rounding could decide."""
    compared = [distance for distance in decisions.distances if distance is not None]
    assert decisions.cached
    assert len(compared) > len(decisions.cached)
    assert all(abs(distance - threshold) > 0.005 * threshold for distance in compared)


@pytest.mark.parametrize("family", FAMILIES)
def test_cache_dit_computes_all(pipelines, plain, family):
    made = oracle_cache_dit.run(pipelines[family], config(residual_diff_threshold=1e-9))
    assert same(made.latents, plain[family])
    assert tuple(made.decisions) == branches(pipelines[family])
    for lists in made.decisions.values():
        for decisions in lists.values():
            assert decisions.computed == (True,) * STEPS
            assert [d is None for d in decisions.distances] == [True] * 3 + [False] * (STEPS - 3)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("calibrator", [None, taylor(1)], ids=["hold", "taylor"])
def test_cache_dit_reuses_every_step_that_it_may(pipelines, plain, family, calibrator):
    made = oracle_cache_dit.run(pipelines[family], config(residual_diff_threshold=1.0), calibrator)
    assert not same(made.latents, plain[family])
    for lists in made.decisions.values():
        for decisions in lists.values():
            assert decisions.cached == tuple(range(3, STEPS))


@pytest.mark.parametrize("family", FAMILIES)
def test_cache_dit_decides(pipelines, family):
    threshold = FAMILIES[family].mixed["dbcache"]
    made = oracle_cache_dit.run(pipelines[family], config(residual_diff_threshold=threshold))
    for lists in made.decisions.values():
        for decisions in lists.values():
            assert_mixed(decisions, threshold)
            for step, distance in enumerate(decisions.distances):
                if distance is not None:
                    assert decisions.computed[step] == (distance >= threshold)


def test_cache_dit_names_each_list_of_blocks(pipelines):
    made = oracle_cache_dit.run(pipelines["hunyuan-video"], config())
    assert list(made.decisions["positive"]) == ["transformer_blocks", "single_transformer_blocks"]
    # One context holds both lists of FLUX.
    assert list(oracle_cache_dit.run(pipelines["flux"], config()).decisions["positive"]) == ["transformer_blocks"]


def test_cache_dit_keeps_two_transformers_apart():
    pipeline = build("wan", experts=2, boundary_ratio=0.9)
    plain = sample(pipeline)
    none = oracle_cache_dit.run(pipeline, config(residual_diff_threshold=1e-9))
    assert same(none.latents, plain)
    made = oracle_cache_dit.run(pipeline, config(residual_diff_threshold=1.0)).decisions
    for branch in ("positive", "negative"):
        above, below = (len(made[branch][name].computed) for name in ("blocks", "transformer_2.blocks"))
        assert above + below == STEPS
        assert min(above, below) > 3
        assert made[branch]["transformer_2.blocks"].cached == tuple(range(3, below))  # counted from its own first


METHODS = {
    "cache-dit": lambda pipeline, **options: oracle_cache_dit.run(pipeline, config(), **options),
    "teacache": oracle_teacache.run,
    "magcache": lambda pipeline, **options: oracle_magcache.run(pipeline, RATIOS[:4], **options),
    "easycache": lambda pipeline, **options: oracle_easycache.run(pipeline, 0.1, **options),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("family", ["wan", "hunyuan-video", "flux"])
def test_nothing_is_left_behind(pipelines, family, method):
    """Not even another order of modules, which MagCache's hooks go by; nor after an error."""
    pipeline = pipelines[family]
    kind = type(pipeline)

    def now():
        things = [state(thing) for thing in (pipeline, *pipeline.transformer.modules())]
        return kind.__call__, set(vars(kind)), things, [list(children or ()) for _, children in things]

    before = now()
    METHODS[method](pipeline, steps=4)
    assert now() == before
    with pytest.raises(TypeError):
        METHODS[method](pipeline, steps=4, no_such_argument=1)
    assert now() == before


@pytest.mark.parametrize(("family", "signal"), SIGNALS)
def test_teacache(pipelines, plain, family, signal):
    pipeline = pipelines[family]
    none = oracle_teacache.run(pipeline, threshold=0.0, signal=signal)
    assert same(none.latents, plain[family])
    everything = oracle_teacache.run(pipeline, threshold=1e9, signal=signal, first=2)
    assert [d.cached for d in everything.decisions.values()] == [tuple(range(2, STEPS - 1))] * 2
    threshold = FAMILIES[family].mixed[signal]
    some = oracle_teacache.run(pipeline, threshold=threshold, signal=signal)
    for decisions in some.decisions.values():
        assert_mixed(decisions, threshold)
    assert same(sample(pipeline), plain[family])


@pytest.mark.parametrize("signal", ["time", "time_projection"])
def test_teacache_of_time_is_known_ahead(pipelines, signal):
    """What Wan compares depends on the timesteps alone: the decisions follow from a run that reuses nothing."""
    threshold = FAMILIES["wan"].mixed[signal]
    relative = oracle_teacache.changes(pipelines["wan"], signal=signal)
    assert relative["positive"] == relative["negative"]
    expected, accumulated = [True], 0.0
    for change in relative["positive"][1:-1]:
        accumulated += 2 * change**2 + change
        expected.append(accumulated >= threshold)
        accumulated = 0.0 if expected[-1] else accumulated
    made = oracle_teacache.run(pipelines["wan"], (2.0, 1.0, 0.0), threshold, signal=signal)
    assert made.decisions["positive"].computed == (*expected, True) == made.decisions["negative"].computed
    assert not all(expected)


@pytest.mark.parametrize("family", HOOKED)
def test_magcache(pipelines, plain, family):
    pipeline = pipelines[family]
    none = oracle_magcache.run(pipeline, RATIOS, longest=0)
    assert same(none.latents, plain[family])
    some = oracle_magcache.run(pipeline, RATIOS, threshold=0.05)
    expected = oracle_magcache.schedule(RATIOS, 0.05, 3, 3)
    assert [d.computed for d in some.decisions.values()] == [expected.computed] * 2
    assert 0 < len(expected.cached) < STEPS - 3
    assert not same(some.latents, plain[family])
    assert same(sample(pipeline), plain[family])


def test_magcache_by_hand():
    made = oracle_magcache.schedule([1.0, 1.0, 0.9, 0.9, 1.0, 0.5], threshold=0.3, longest=9, retained=1)
    # Errors by hand: 0; 0.1; 0.1 + 0.19; then 0.29 + 0.19 is too much; then 0.5 alone is.
    assert made.distances == (None, 0.0, *map(pytest.approx, (0.1, 0.29, 0.48, 0.5)))
    assert made.cached == (1, 2, 3)
    assert oracle_magcache.schedule([1.0] * 8, 0.0, 2, 1).cached == (1, 2, 4, 5, 7)
    assert oracle_magcache.schedule([1.0] * 8, 0.0, 2, 1, inclusive=False).cached == ()
    assert oracle_magcache.schedule([1.0] * 8, 0.0, 2, 0).cached == (1, 2, 4, 5, 7)


@pytest.mark.parametrize("family", FAMILIES)
def test_easycache(pipelines, plain, family):
    pipeline = pipelines[family]
    none = oracle_easycache.run(pipeline, 0.0)
    assert same(none.latents, plain[family])
    everything = oracle_easycache.run(pipeline, 1e9, first=3)
    for decisions in everything.decisions.values():
        assert decisions.cached == tuple(range(3, STEPS - 1))
    threshold = FAMILIES[family].mixed["easycache"]
    some = oracle_easycache.run(pipeline, threshold)
    for decisions in some.decisions.values():
        assert_mixed(decisions, threshold)
    assert same(sample(pipeline), plain[family])


def test_easycache_where_one_branch_decides(pipelines):
    made = oracle_easycache.run(pipelines["wan"], 0.5, together=True).decisions
    assert made["positive"].computed == made["negative"].computed
    assert set(made["negative"].distances) == {None}


def test_masks():
    masks = oracle_scm.masks()
    assert len(masks) == 4 * 93
    assert all(len(mask) == steps and mask[0] == mask[-1] == "1" for (_, steps), mask in masks.items())
    for steps in range(8, 101):
        counts = [masks[preset, steps].count("1") for preset in oracle_scm.PRESETS]
        assert counts == sorted(set(counts), reverse=True)
    # The bins that cache-dit documents for 28 steps, by hand.
    assert masks["slow", 28] == "11111111" + "0" + "111" + "00" + "111" + "00" + "11" + "00" + "1" + "000" + "1"
    assert masks["ultra", 28] == "1111" + "00" + "1" + "00000" + "1" + "000000" + "1" + "0000000" + "1"


def test_masks_of_bins():
    assert oracle_scm.from_bins([8, 3, 3, 2, 2], [1, 2, 2, 2, 3]) == "1111111101110011100110011000"
    assert oracle_scm.from_bins([2, 1], [1, 1], 4) == "1101"
    with pytest.raises(AssertionError):
        oracle_scm.from_bins([2, 1], [1, 1], 6)


def test_guidance_that_stops(pipelines):
    """Branches are told by their names: the positive one's decisions do not feel that the other is gone."""
    pipeline = pipelines["wan"]
    for made, threshold in ((oracle_teacache.run, 2.0), (oracle_easycache.run, 0.5)):
        whole = made(pipeline, threshold=threshold).decisions
        part = made(pipeline, threshold=threshold, unguided_from=6).decisions
        assert len(part["negative"].computed) == 6
        assert len(part["positive"].computed) == STEPS
        assert part["negative"].computed == whole["negative"].computed[:6]
        assert part["positive"].computed[:6] == whole["positive"].computed[:6]
