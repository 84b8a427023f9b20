"""What cache-dit 1.5.3 does otherwise than its formula or its documentation: where our gates must differ, or must not.

Each of these is a fact about the package. A test that fails after an upgrade says that the difference is gone.
"""

from __future__ import annotations

import cache_dit
import pytest
import torch
from helpers.gate_pipelines import FAMILIES, STEPS, build, named, sample, untouched
from helpers.oracle_cache_dit import config, contexts, enabled, run, taylor

MASK = [1, 1, 1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 1]


@pytest.fixture(scope="module")
def wan():
    return build("wan")


def equal(ours, theirs):
    return [torch.equal(a, b) for a, b in zip(ours, theirs, strict=True)]


def masked(pipeline, calibrator=None):
    cache = config(steps_computation_mask=MASK, steps_computation_policy="static", num_inference_steps=STEPS)
    return run(pipeline, cache, calibrator)


def test_a_bare_transformer_starts_its_next_run_one_call_late(wan):
    """The first call of a second run still belongs to the first: it reuses, without a warm-up, and every later call
    is taken for the other branch's. With `refresh_context` between the runs they are the same."""
    steps = 8
    with untouched(wan):
        adapter = cache_dit.BlockAdapter(
            transformer=wan.transformer,
            blocks=wan.transformer.blocks,
            forward_pattern=cache_dit.ForwardPattern.Pattern_2,
            has_separate_cfg=True,
        )
        cache = config(num_inference_steps=steps, residual_diff_threshold=1.0, max_warmup_steps=4)
        cache_dit.enable_cache(adapter, cache_config=cache)
        try:
            first = sample(wan, steps=steps)
            (context,) = (context for _, context in contexts(wan))
            assert (context.executed_steps, context.transformer_executed_steps) == (8, 16)
            second = sample(wan, steps=steps)
            (context,) = (context for _, context in contexts(wan))
            assert context.transformer_executed_steps == 15  # of 16: the context began at the second call
            assert not any(equal(first, second))
            cache_dit.refresh_context(wan.transformer, num_inference_steps=steps)
            assert all(equal(first, sample(wan, steps=steps)))
        finally:
            cache_dit.disable_cache(adapter)
    assert all(equal(first, run(wan, cache, steps=steps).latents))


def test_taylor_has_no_derivative_before_the_fourth_step(wan):
    """Three computed steps know three values, enough for two derivatives by the formula; here there is none.

    Orders 1 and 2 hold the last value until a step from index 3 on is computed, and order 2 is order 1 until the
    next one after that.
    """
    hold, one, two = (masked(wan, calibrator) for calibrator in (None, taylor(1), taylor(2)))
    assert hold.decisions["positive"]["blocks"].cached == tuple(step for step, mark in enumerate(MASK) if not mark)
    assert equal(hold.latents, one.latents) == [True] * 7 + [False] * 9  # step 6 is the first computed from 3 on
    assert equal(one.latents, two.latents) == [True] * 11 + [False] * 5  # and 10 the next


def test_taylor_steps_count_from_minus_one():
    """The cause: a state that an update makes has missed the beginning of its first step."""
    from cache_dit.caching.cache_contexts.calibrators import TaylorSeerCalibrator

    calibrator = TaylorSeerCalibrator(n_derivatives=1)
    slopes = []
    for step in range(5):
        calibrator.mark_step_begin()
        calibrator.update(torch.tensor(2.0 * step), name="x")
        slopes.append(calibrator.states["x"].state["dY_current"][1])
    assert slopes == [None, None, None, 2.0, 2.0]
    calibrator.mark_step_begin()
    assert calibrator.approximate(name="x") == 10.0  # and its formula is the paper's


def test_branches_are_told_by_counting_calls(wan):
    """Where a step calls one branch only, the next is taken for the other: steps are miscounted, residuals swapped."""
    cache = config(residual_diff_threshold=1.0, enable_separate_cfg=True)
    calls = []
    with enabled(wan, cache), named(wan) as branch:
        watch = wan.transformer.register_forward_pre_hook(lambda *_: calls.append(branch()))
        sample(wan, unguided_from=6)
        watch.remove()
        (context,) = (context for _, context in contexts(wan))
        assert (calls.count("positive"), calls.count("negative")) == (STEPS, 6)
        assert context.executed_steps == 11  # 22 calls, halved
        assert context.cfg_cached_steps == list(range(3, 11))  # of which the negative branch ran 3 to 5


def test_a_computed_step_ends_a_run(wan):
    """As documented, and since 1.5.3: a run's length counts from the last computed step, whatever had it computed."""
    longest = 2
    made = run(wan, config(residual_diff_threshold=FAMILIES["wan"].mixed["dbcache"], max_continuous_cached_steps=2))
    limited = after_distance = 0
    for lists in made.decisions.values():
        computed, distances = lists["blocks"]
        for step in range(3, STEPS):
            at_limit = not any(computed[step - longest : step])
            assert (distances[step] is None) == at_limit  # the limit, and only it, spares the comparison
            limited += at_limit
            after_distance += not computed[step] and computed[step - 1] and distances[step - 1] is not None
    assert limited
    assert after_distance


@pytest.mark.parametrize("cap", [0.2, 0.3, 0.5])
def test_accumulated_differences_are_those_of_computed_steps_too(wan, cap):
    """`max_accumulated_residual_diff_threshold` stops reuse for good once everything compared, hits and misses, adds
    up to it; nothing sets the sum back."""
    made = run(wan, config(residual_diff_threshold=0.08, max_accumulated_residual_diff_threshold=cap))
    for lists in made.decisions.values():
        computed, distances = lists["blocks"]
        total = 0.0
        for step in range(3, STEPS):
            assert (distances[step] is None) == (total >= cap)
            assert computed[step] or total < cap
            total += distances[step] or 0.0
        assert total >= cap
        assert any(computed[step] for step in range(3, STEPS) if distances[step] is not None)  # misses were in it


def test_the_last_step_is_not_forced(wan):
    made = run(wan, config(residual_diff_threshold=1.0))
    assert made.decisions["positive"]["blocks"].cached[-1] == STEPS - 1


def test_a_warm_up_with_an_interval_reuses_between(wan):
    made = run(wan, config(residual_diff_threshold=1.0, max_warmup_steps=6, warmup_interval=2))
    assert made.decisions["positive"]["blocks"].cached == (1, 3, 5, *range(6, STEPS))


def test_a_mask_shortens_the_warm_up(wan):
    """A warm-up longer than the mask's first run of 1 is cut there, without a word."""
    cache = config(
        steps_computation_mask=MASK,
        steps_computation_policy="static",
        num_inference_steps=STEPS,
        max_warmup_steps=8,
    )
    assert run(wan, cache).decisions["positive"]["blocks"].cached == masked(wan).decisions["positive"]["blocks"].cached


def test_static_masks_know_no_limits(wan):
    cache = config(
        steps_computation_mask=MASK,
        steps_computation_policy="static",
        num_inference_steps=STEPS,
        max_continuous_cached_steps=1,
        max_cached_steps=2,
        residual_diff_threshold=1e-9,
    )
    assert run(wan, cache).decisions["positive"]["blocks"].cached == masked(wan).decisions["positive"]["blocks"].cached


def test_a_run_changes_the_order_of_the_transformers_children():
    """Lists of blocks are taken out and put back at the end: who walks the children then meets them in that order."""
    pipeline = build("hunyuan-video", layers=3)
    before = [name for name, _ in pipeline.transformer.named_children()]
    with enabled(pipeline, config()):
        sample(pipeline, steps=1)
        after = [name for name, _ in pipeline.transformer.named_children()]
    assert after != before
    assert sorted(after) == sorted(before)
    assert after[-2:] == ["single_transformer_blocks", "transformer_blocks"]
    assert [name for name, _ in pipeline.transformer.named_children()] == before  # `enabled` undoes it


def test_disabling_leaves_a_forward_behind():
    """The transformer keeps an attribute `forward`, and FLUX's another function there than its class has."""
    pipeline = build("flux", layers=2)
    with untouched(pipeline):
        cache_dit.enable_cache(pipeline, cache_config=config())
        cache_dit.disable_cache(pipeline)
        assert vars(pipeline.transformer)["forward"].__func__ is not type(pipeline.transformer).forward
    assert "forward" not in vars(pipeline.transformer)
