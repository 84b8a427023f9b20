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
    """Reuse the residual of all blocks while its norm hardly changes, by a table of ratios (MagCache, 2506.09045).

    The table has a ratio for each step: the norm of the residual divided by that of the step before. From the last
    computed step on, the ratios are multiplied, and the distances of the products from 1 are added up. While the sum is
    not above `threshold`, the last residual is added again. All decisions are known before the run.

    Tables were published for HunyuanVideo, Wan, Qwen-Image and FLUX.1-dev; for another number of steps, each step takes
    the nearest entry. `sgd calibrate` measures a table.

    Args:
        threshold: Largest sum of the errors (magcache_thresh). The default is the published threshold for the model.
            With a `table`, a threshold is required.
        max_consecutive: Largest number of reused steps in a row (K). The default is the published number for the model.
        retention: Share of the steps, in [0, 1], that are computed at the start (retention_ratio). The default is the
            published share for the model, and 0.2 with ratios of your own.
        ratios: A table of your own, with one entry for each step. The first entry is not used.
        table: A table that `sgd calibrate` wrote for this model and schedule.
        max_reused: Largest number of reused steps.
        order: Order of the Taylor expansion that replaces the residual, as in `cache.taylorseer`; 0 is no expansion.

    Returns:
        The description of the gate.

    Raises:
        NodeError: If the parameters conflict.
    """
    if ratios is not None and table is not None:
        raise bad_value("ratios", "`ratios` and `table` both give the ratios: set only one of them")
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
