"""`cache.library`: the cache-dit package as it is, as a gate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from ....graph.contract.errors import NodeError
from ..gate import Gate
from .gate_node import gate_node
from .parameters import Count, Positive

Limit = Annotated[int, Field(ge=-1)]
Kept = Literal["residual", "hidden_states"]


@gate_node("cache.library", partial=True)
def library(
    *,
    file: Path | None = None,
    cache_type: Literal["DBCache", "DBPrune"] | None = None,
    Fn_compute_blocks: Positive | None = None,
    Bn_compute_blocks: Count | None = None,
    residual_diff_threshold: Annotated[float | None, Field(ge=0)] = None,
    max_accumulated_residual_diff_threshold: Annotated[float | None, Field(gt=0)] = None,
    max_warmup_steps: Count | None = None,
    warmup_interval: Positive | None = None,
    max_cached_steps: Limit | None = None,
    max_continuous_cached_steps: Limit | None = None,
    enable_separate_cfg: bool | None = None,
    cfg_compute_first: bool | None = None,
    cfg_diff_compute_separate: bool | None = None,
    num_inference_steps: Positive | None = None,
    steps_computation_mask: list[int] | None = None,
    mask_policy: Literal["slow", "medium", "fast", "ultra"] | None = None,
    steps_computation_policy: Literal["dynamic", "static"] | None = None,
    force_refresh_step_hint: Positive | None = None,
    force_refresh_step_policy: Literal["once", "repeat"] | None = None,
    enable_dynamic_prune_threshold: bool | None = None,
    max_dynamic_prune_threshold: Annotated[float | None, Field(ge=0)] = None,
    dynamic_prune_threshold_relax_ratio: Annotated[float | None, Field(gt=0)] = None,
    non_prune_block_ids: list[int] | None = None,
    force_reduce_calibrator_vram: bool | None = None,
    enable_taylorseer: bool | None = None,
    enable_encoder_taylorseer: bool | None = None,
    taylorseer_cache_type: Kept | None = None,
    taylorseer_order: Positive | None = None,
    enable_dmd: bool | None = None,
    enable_encoder_dmd: bool | None = None,
    dmd_history: Positive | None = None,
    dmd_rank: Count | None = None,
    dmd_ridge: Annotated[float | None, Field(ge=0)] = None,
    dmd_svd_precision: Literal["low", "medium", "high"] | None = None,
    enable_foca: bool | None = None,
    enable_encoder_foca: bool | None = None,
    calibrator_cache_type: Kept | None = None,
) -> Gate:
    """Hand the blocks to the cache-dit package: DBCache or DBPrune with its calibrators and masks, as they are there.

    Use it with an existing cache-dit configuration, or for comparison. The options keep cache-dit's names and meanings
    (its DBCacheConfig, DBPruneConfig and the keys of `load_configs`), and its defaults.
    Other than in cache-dit, an option that it would not know or not heed is an error, and the states of guidance
    branches are told apart by name, not by counting calls. So a branch that rests at some steps keeps its state, and
    everything that counts steps counts those at which the branch runs.

    Args:
        file: A YAML file of options, as `cache_dit.load_configs` takes: under `cache_config`, or bare. Options given
            here win over the file's. Sections about other things than caching are errors.
        cache_type: DBCache reuses the residual of the middle blocks; DBPrune decides for each block. Default: DBCache.
        Fn_compute_blocks: First blocks that always run (8).
        Bn_compute_blocks: Last blocks that always run (0).
        residual_diff_threshold: Relative change under which is reused (0.08).
        max_accumulated_residual_diff_threshold: Compute everything once the changes have added up to this (no limit).
        max_warmup_steps: First steps that are computed (8).
        warmup_interval: Of these, every n-th is (1).
        max_cached_steps: Most reused steps; -1 is no limit (-1).
        max_continuous_cached_steps: Longest run of reused steps; -1 is no limit (-1).
        enable_separate_cfg: States of guidance branches are separate. They always are; false is for runs whose
            transformer is called once per step.
        cfg_compute_first: Only false, since branches are known by name.
        cfg_diff_compute_separate: Only true, for the same reason.
        num_inference_steps: Number of steps; it is known, and an error if it is another.
        steps_computation_mask: 1 (compute) and 0 (reuse), one for each step. In a file, the name of a policy too.
        mask_policy: The mask that `cache_dit.steps_mask` makes for the number of steps: 8 and more, or 4 or 6.
        steps_computation_policy: At a 0 of the mask, `static` reuses, `dynamic` if the threshold agrees (dynamic).
        force_refresh_step_hint: Forget everything before this step.
        force_refresh_step_policy: Only that once, or `repeat`edly after as many steps (once).
        enable_dynamic_prune_threshold: DBPrune: adapt the threshold to the changes of the step's first blocks (false).
        max_dynamic_prune_threshold: DBPrune: upper bound of the adapted threshold (twice the threshold).
        dynamic_prune_threshold_relax_ratio: DBPrune: the adapted threshold over the mean change (1.25).
        non_prune_block_ids: DBPrune: numbers of further blocks that always run.
        force_reduce_calibrator_vram: DBPrune: compare a quarter of the channels (false).
        enable_taylorseer: Predict reused tensors with a Taylor expansion. It begins at the fourth computed step.
        enable_encoder_taylorseer: For the stream of text too (false).
        taylorseer_cache_type: Expand the residuals of blocks, or their outputs (residual).
        taylorseer_order: Order of the expansion (1).
        enable_dmd: Predict reused tensors with dynamic mode decomposition.
        enable_encoder_dmd: For the stream of text too (as enable_dmd).
        dmd_history: Computed steps that are kept (6).
        dmd_rank: Rank that the decomposition is cut to; 0 finds one (0).
        dmd_ridge: Regularisation (1e-8).
        dmd_svd_precision: Method of the decomposition (medium).
        enable_foca: Predict reused tensors with forecast-then-calibrate.
        enable_encoder_foca: For the stream of text too (false).
        calibrator_cache_type: As taylorseer_cache_type, for DMD and FoCa (residual).

    Returns:
        The description of the gate.

    Raises:
        NodeError: If options do not go together, or the file cannot be read.
    """
    given = dict(locals())
    from ..cache_dit.engine_options import gather

    options, problems = gather(library.node.inputs, given)
    if problems:
        raise NodeError(*problems)
    return Gate("library", options=options)
