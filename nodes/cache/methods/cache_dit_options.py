"""`cache.library`: a gate that uses the cache-dit package."""

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
    """Let the cache-dit package cache the blocks: DBCache or DBPrune, with the package's calibrators and masks.

    Use it with an existing cache-dit configuration, or for comparison. The options keep cache-dit's names and meanings
    (its DBCacheConfig, DBPruneConfig and the keys of `load_configs`), and its defaults. There are two differences. An
    option that cache-dit would ignore is an error. And the states of guidance branches are told apart by the branch's
    name, not by counting calls. So a branch that does not run at some steps keeps its state, and options that count
    steps count the steps at which the branch runs.

    Args:
        file: A YAML file of options, as for `cache_dit.load_configs`: below `cache_config`, or at the top level.
            Options of this node override those of the file. Sections that are not about caching are errors.
        cache_type: DBCache reuses the residual of the middle blocks; DBPrune decides for each block. Default: DBCache.
        Fn_compute_blocks: Number of first blocks that always run (8).
        Bn_compute_blocks: Number of last blocks that always run (0).
        residual_diff_threshold: A step is reused if the relative change is below this number (0.08).
        max_accumulated_residual_diff_threshold: When the sum of the changes reaches this number, all further steps are
            computed (no limit).
        max_warmup_steps: Number of first steps that are computed (8).
        warmup_interval: Compute only every n-th of these first steps (1).
        max_cached_steps: Largest number of reused steps; -1 is no limit (-1).
        max_continuous_cached_steps: Largest number of reused steps in a row; -1 is no limit (-1).
        enable_separate_cfg: Whether guidance branches have separate states. They always have; false is allowed if the
            transformer is called once per step.
        cfg_compute_first: Only false is allowed, since sgd knows the guidance branch of each call.
        cfg_diff_compute_separate: Only true is allowed, for the same reason.
        num_inference_steps: Number of steps. sgd knows the number, and another one is an error.
        steps_computation_mask: One number for each step: 1 (compute) or 0 (reuse). A file may also have the name of a
            mask policy here.
        mask_policy: Take the mask that `cache_dit.steps_mask` makes. It has masks for 4, 6, and 8 or more steps.
        steps_computation_policy: At a 0 of the mask, `static` always reuses, and `dynamic` reuses if the change is
            below the threshold (dynamic).
        force_refresh_step_hint: Drop all stored results before this step.
        force_refresh_step_policy: `once`: only before that step. `repeat`: before every multiple of that step (once).
        enable_dynamic_prune_threshold: DBPrune: adapt the threshold to the changes of the step's first blocks (false).
        max_dynamic_prune_threshold: DBPrune: upper bound of the adapted threshold (twice the threshold).
        dynamic_prune_threshold_relax_ratio: DBPrune: factor from the mean change to the adapted threshold (1.25).
        non_prune_block_ids: DBPrune: numbers of further blocks that always run.
        force_reduce_calibrator_vram: DBPrune: compare a quarter of the channels (false).
        enable_taylorseer: Predict reused tensors with a Taylor expansion. It begins at the fourth computed step.
        enable_encoder_taylorseer: Use the Taylor expansion for the text stream too (false).
        taylorseer_cache_type: Expand the residuals of blocks, or their outputs (residual).
        taylorseer_order: Order of the expansion (1).
        enable_dmd: Predict reused tensors with dynamic mode decomposition.
        enable_encoder_dmd: Use the decomposition for the text stream too (as enable_dmd).
        dmd_history: Number of computed steps that are kept (6).
        dmd_rank: Rank of the decomposition; 0 chooses a rank (0).
        dmd_ridge: Regularisation (1e-8).
        dmd_svd_precision: Method of the decomposition (medium).
        enable_foca: Predict reused tensors with forecast-then-calibrate.
        enable_encoder_foca: Use forecast-then-calibrate for the text stream too (false).
        calibrator_cache_type: As taylorseer_cache_type, for DMD and FoCa (residual).

    Returns:
        The description of the gate.

    Raises:
        NodeError: If options conflict, or the file cannot be read.
    """
    given = dict(locals())
    from ..cache_dit.engine_options import gather

    options, problems = gather(library.node.inputs, given)
    if problems:
        raise NodeError(*problems)
    return Gate("library", options=options)
