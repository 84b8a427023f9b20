"""`cache.magcache`: a table of ratios predicts the error of reuse."""

from __future__ import annotations

from pathlib import Path

from ..gate import Gate, Limits
from .gate_node import gate_node
from .parameters import Count, Order, Ratio, Share, Threshold, bad_value, numbers

RETENTION = 0.2  # MagCache, magcache_generate.py: `--retention_ratio`


@gate_node("cache.magcache")
def magcache(
    *,
    threshold: Threshold | None = None,
    max_consecutive: Count | None = None,
    retention: Share | None = None,
    ratios: list[Ratio] | None = None,
    table: Path | None = None,
    max_reused: Count | None = None,
    order: Order = 0,
) -> Gate:
    """Reuse the residual of all blocks while its size hardly changes, by a table of ratios (MagCache, 2506.09045).

    The table has, for each step, the size of the residual over that of the step before. Since the last computed step
    the ratios are multiplied, and the distances of the products from 1 are added up. Up to `threshold` the residual
    is added again. Everything is known before the run.

    Tables were published for HunyuanVideo, Wan, Qwen-Image and FLUX.1-dev; for another number of steps the nearest
    entries are taken. `sgd calibrate` measures one.

    Args:
        threshold: Largest sum of the errors (magcache_thresh). Without it, that of the origin for the model; a
            `table` has none.
        max_consecutive: Longest run of reused steps (K). Without it, that of the origin for the model.
        retention: Share of first steps that are computed (retention_ratio). Without it that of the origin for
            the model, and 0.2 with ratios of your own.
        ratios: A table of your own, one entry for each step, the first of which is not used.
        table: A table that `sgd calibrate` wrote for this model and schedule.
        max_reused: Most reused steps.
        order: Order of the Taylor expansion that stands in for the residual, as in `cache.taylorseer`; 0 is none.

    Returns:
        The description of the gate.

    Raises:
        NodeError: If the parameters do not go together.
    """
    if ratios is not None and table is not None:
        raise bad_value("ratios", "`ratios` and `table` each say the ratios: give one of them")
    own = numbers("ratios", ratios)
    return Gate(
        "magcache",
        rule="magnitude",
        threshold=threshold,
        ratios=None if own is None else {"positive": own},
        order=order,
        limits=Limits(
            warmup_share=RETENTION if retention is None else retention,
            max_consecutive=max_consecutive,
            max_reused=max_reused,
        ),
        table=None if table is None else str(table),
        options={"retention": retention},
    )
