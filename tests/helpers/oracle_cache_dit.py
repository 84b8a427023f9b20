"""The cache-dit package on diffusers' pipelines: its decisions and its latents, step by step.

cache-dit changes the pipeline's class and its transformer. Both are restored, so other tests can use them.
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
        latents: Latents after every step, in the pipeline's layout.
        decisions: Decisions by branch, then by list of blocks. A list has the name of the transformer's attribute,
            after `transformer_2.` for a second transformer. A second transformer counts its own steps.
    """

    latents: list[torch.Tensor]
    decisions: dict[str, dict[str, Decisions]]


def config(**options: Any) -> Any:
    """A DBCacheConfig that caches early and often by default, because tiny models have few blocks."""
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
        cache: A DBCacheConfig, which is not changed. Without `enable_separate_cfg`, branches are separate if the
            pipeline evaluates them one by one.
        calibrator: A TaylorSeerCalibratorConfig, or None.
        steps: Number of steps.
        scale: Guidance scale; None switches guidance off.
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
    """Enable cache-dit's cache, and restore the pipeline at the end."""
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
    """cache-dit's contexts by the name of their list of blocks; only while the cache is enabled."""
    for prefix in ("transformer", "transformer_2"):
        transformer = getattr(pipeline, prefix, None)
        for name in getattr(transformer, "_context_names", []):
            # A context's name is the name of the attribute and a number for the transformer.
            attribute = name.rsplit("_", 1)[0] if name.rsplit("_", 1)[-1].lstrip("-").isdigit() else name
            yield (
                attribute if prefix == "transformer" else f"{prefix}.{attribute}",
                transformer._context_manager.get_context(name),
            )


def _decisions(context: Any, branch: int) -> Decisions:
    cached = context.cfg_cached_steps if branch else context.cached_steps
    diffs = context.cfg_residual_diffs if branch else context.residual_diffs
    steps = range(context.executed_steps)
    # Negative numbers mean no comparison: always reused (-1), or different shapes (-2).
    known = [diffs.get(str(step), None) for step in steps]
    return Decisions(
        tuple(step not in cached for step in steps),
        tuple(None if diff is None or diff < 0 else float(diff) for diff in known),
    )
