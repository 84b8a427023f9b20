"""The cache-dit package on diffusers' pipelines: its decisions and its latents, step by step.

cache-dit changes the pipeline's class and its transformer; both are put back as they were, so that other tests
can use the same pipeline and class.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import cache_dit
import torch

from helpers.gate_pipelines import STEPS, Decisions, branches, sample, untouched


class Outcome(NamedTuple):
    """Latents after every step, and the decisions of each branch in each list of blocks.

    Attributes:
        latents: As the pipeline has them.
        decisions: Branch, then list of blocks. Lists are named as the transformer's attribute; those of a second
            transformer have `transformer_2.` before. A second transformer counts its own steps.
    """

    latents: list[torch.Tensor]
    decisions: dict[str, dict[str, Decisions]]


def config(**options: Any) -> Any:
    """A DBCacheConfig that caches early and often where nothing else is said, as tiny models have few blocks."""
    given = {"Fn_compute_blocks": 1, "Bn_compute_blocks": 0, "max_warmup_steps": 3, "residual_diff_threshold": 0.1}
    return cache_dit.DBCacheConfig(**(given | options))


def taylor(order: int = 1, **options: Any) -> Any:
    return cache_dit.TaylorSeerCalibratorConfig(taylorseer_order=order, **options)


def run(
    pipeline: Any,
    cache: Any,
    calibrator: Any = None,
    *,
    steps: int = STEPS,
    scale: float | None = 5.0,
    **options: Any,
) -> Outcome:
    """Sample with cache-dit.

    Args:
        pipeline: A pipeline of `gate_pipelines.build`, or another of its classes.
        cache: A DBCacheConfig, not changed. Where it does not say whether branches are separate, they are if the
            pipeline evaluates them one by one.
        calibrator: A TaylorSeerCalibratorConfig, or none.
        steps: Number of steps.
        scale: Guidance scale; None guides nothing.
        options: Further arguments of `gate_pipelines.sample`.
    """
    named = branches(pipeline, scale)
    cache = copy.deepcopy(cache)
    if cache.enable_separate_cfg is None:
        cache.enable_separate_cfg = len(named) == 2
    with enabled(pipeline, cache, calibrator):
        latents = sample(pipeline, steps=steps, scale=scale, **options)
        decisions = {
            branch: {name: _decisions(context, index) for name, context in contexts(pipeline)}
            for index, branch in enumerate(named if cache.enable_separate_cfg else named[:1])
        }
    return Outcome(latents, decisions)


@contextmanager
def enabled(pipeline: Any, cache: Any, calibrator: Any = None) -> Iterator[None]:
    """The pipeline with cache-dit's cache; afterwards exactly as it was."""
    kind = type(pipeline)
    call = kind.__call__
    with untouched(pipeline):
        try:
            cache_dit.enable_cache(pipeline, cache_config=cache, calibrator_config=calibrator)
            yield
        finally:
            cache_dit.disable_cache(pipeline)
            kind.__call__ = call
            for leftover in ("_is_cached", "_original_call"):
                if leftover in vars(kind):
                    delattr(kind, leftover)


def contexts(pipeline: Any) -> Iterator[tuple[str, Any]]:
    """cache-dit's contexts, each by the name of its list of blocks; only while the cache is enabled."""
    for prefix in ("transformer", "transformer_2"):
        transformer = getattr(pipeline, prefix, None)
        for name in getattr(transformer, "_context_names", []):
            # cache-dit's name of a context: the attribute, and a number that tells transformers apart.
            attribute = name.rsplit("_", 1)[0] if name.rsplit("_", 1)[-1].lstrip("-").isdigit() else name
            yield (
                attribute if prefix == "transformer" else f"{prefix}.{attribute}",
                transformer._context_manager.get_context(name),
            )


def _decisions(context: Any, branch: int) -> Decisions:
    cached = context.cfg_cached_steps if branch else context.cached_steps
    diffs = context.cfg_residual_diffs if branch else context.residual_diffs
    steps = range(context.executed_steps)
    # Negative numbers stand for no comparison: always reused (-1), or shapes that differ (-2).
    known = [diffs.get(str(step), None) for step in steps]
    return Decisions(
        tuple(step not in cached for step in steps),
        tuple(None if diff is None or diff < 0 else float(diff) for diff in known),
    )
