"""MagCache: diffusers' hook on a pipeline, and the rule of the paper (2506.09045) in plain Python.

Three versions of the rule exist. They differ in details only:

- diffusers: int(retention * steps + 0.5) steps are computed at the start; reuse while err <= threshold.
- The authors' code for HunyuanVideo: int(retention * steps); err <= threshold.
- The authors' code for Wan and Qwen-Image: int(retention * calls), with one call per branch and step, so an odd number
  ends at different steps in the two branches; err < threshold.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from contextlib import redirect_stdout
from typing import Any

from helpers.gate_pipelines import STEPS, Decisions, Outcome, branches, family_of, named, sample, untouched


def schedule(
    ratios: Sequence[float], threshold: float, longest: int, retained: int, *, inclusive: bool = True
) -> Decisions:
    """The rule for one branch.

    Args:
        ratios: One ratio for each step: the mean norm of its residual, divided by that of the step before.
        threshold: Threshold of the accumulated error.
        longest: Longest run of reused steps (K).
        retained: Steps computed at the start.
        inclusive: Whether an error equal to the threshold reuses.

    Returns:
        Decisions, with the accumulated error of each step after the retained steps.
    """
    computed: list[bool] = []
    errors: list[float | None] = []
    ratio, error, run = 1.0, 0.0, 0
    for step, own in enumerate(ratios):
        if step < retained:
            computed.append(True)
            errors.append(None)
            continue
        ratio, run = ratio * own, run + 1
        error += abs(1.0 - ratio)
        within = error <= threshold if inclusive else error < threshold
        reuses = step > 0 and within and run <= longest
        computed.append(not reuses)
        errors.append(error)
        if not reuses:
            ratio, error, run = 1.0, 0.0, 0
    return Decisions(tuple(computed), tuple(errors))


def run(
    pipeline: Any,
    ratios: Sequence[float],
    *,
    threshold: float = 0.06,
    longest: int = 3,
    retention: float = 0.2,
    steps: int = STEPS,
    scale: float | None = 5.0,
    **options: Any,
) -> Outcome:
    """Sample with diffusers' hook on all blocks of the transformer.

    Args:
        pipeline: A pipeline whose transformer diffusers can cache; not Z-Image.
        ratios: One ratio for each step; diffusers uses one table for every branch.
        threshold: Threshold of the accumulated error.
        longest: Longest run of reused steps.
        retention: Share of the steps computed at the start; diffusers rounds it.
        steps: Number of steps.
        scale: Guidance scale; None switches guidance off.
        options: Further arguments of `gate_pipelines.sample`.
    """
    from diffusers.hooks.mag_cache import MagCacheConfig

    assert getattr(pipeline, "transformer_2", None) is None, "one transformer only"
    assert len(ratios) == steps, "diffusers would interpolate"
    cache = MagCacheConfig(
        threshold=threshold,
        max_skip_steps=longest,
        retention_ratio=retention,
        num_inference_steps=steps,
        mag_ratios=list(ratios),
    )
    decisions: dict[str, list[bool]] = {}
    transformer = pipeline.transformer
    head = getattr(transformer, family_of(pipeline).lists[0])[0]
    with untouched(pipeline), named(pipeline, scale) as branch:
        transformer.enable_cache(cache)
        hook = head._diffusers_hook.get_hook("mag_cache_leader_block_hook")
        watch = head.register_forward_hook(
            lambda *_: decisions.setdefault(branch(), []).append(hook.state_manager.get_state().should_compute)
        )
        try:
            latents = sample(pipeline, steps=steps, scale=scale, **options)
        finally:
            watch.remove()
            transformer.disable_cache()
    # The hook keeps no record of its errors.
    return Outcome(latents, {name: Decisions(tuple(made), (None,) * len(made)) for name, made in decisions.items()})


def calibrate(
    pipeline: Any, *, steps: int = STEPS, scale: float | None = 5.0, **options: Any
) -> dict[str, list[float]]:
    """The ratios of each branch that diffusers' hook measures; the first ratio is always 1.

    The hook prints the list of each branch after the last step, and does not keep it.
    """
    from diffusers.hooks.mag_cache import MagCacheConfig

    printed = io.StringIO()
    with untouched(pipeline):
        pipeline.transformer.enable_cache(MagCacheConfig(calibrate=True, num_inference_steps=steps))
        try:
            with redirect_stdout(printed):
                sample(pipeline, steps=steps, scale=scale, **options)
        finally:
            pipeline.transformer.disable_cache()
    lists = [json.loads(line) for line in printed.getvalue().splitlines() if line.startswith("[1.0")]
    return dict(zip(branches(pipeline, scale), lists, strict=True))
