"""`cache.teacache`: a polynomial of a signal's change estimates the change of the output."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from ..gate import Gate, Limits
from .gate_node import gate_node
from .parameters import Count, Order, Threshold, bad_value, numbers

RETENTION_STEPS = 5  # TeaCache4Wan2.1/teacache_generate.py: `ret_steps = 5*2` calls of two branches


@gate_node("cache.teacache")
def teacache(
    *,
    threshold: Threshold | None = None,
    signal: Literal["auto", "time", "modulated"] = "auto",
    retention_steps: bool = False,
    coefficients: list[float] | None = None,
    table: Path | None = None,
    clamp: bool = False,
    warmup_steps: Count | None = None,
    max_consecutive: Count | None = None,
    max_reused: Count | None = None,
    order: Order = 0,
) -> Gate:
    """Reuse the residual of all blocks while the estimated changes of the output stay small (TeaCache, 2411.19108).

    At each step, the gate compares a signal with that of the step before. A polynomial of the relative change of the
    signal estimates the relative change of the output. While the sum of the estimates since the last computed step is
    below `threshold`, the last residual of the whole stack is added again. The first and the last step are computed.
    For Wan, the signal is the embedding of the timestep: all decisions are known before the run, and nothing waits for
    the device. For HunyuanVideo and FLUX, the signal is the modulated input of the first block, which is known only in
    the run.

    The polynomial is one that was published for the model (Wan 2.1, HunyuanVideo, FLUX.1-dev), or your own. The gate
    never uses the polynomial of another model. `sgd calibrate` fits a polynomial for your model.

    Args:
        threshold: Largest sum of the estimated changes. The default is the smallest threshold that was published for
            the model. With a `table`, a threshold is required.
        signal: The tensor that is compared. `time`: the embedding of the timestep (Wan). `modulated`: the first block's
            input, normed and modulated. `auto`: the signal that was published for the family.
        retention_steps: Wan only: compare the projection of the embedding, with its own coefficients. The first five
            steps are computed, and the last step may be reused (use_ret_steps).
        coefficients: Coefficients of the polynomial, highest order first.
        table: A table that `sgd calibrate` wrote for this model and schedule.
        clamp: Count negative estimates as 0. Several published polynomials are negative for plausible changes.
            TeaCache's own code uses negative estimates unchanged.
        warmup_steps: Number of first steps that are computed. The default is 1, and 5 with `retention_steps`.
        max_consecutive: Largest number of reused steps in a row.
        max_reused: Largest number of reused steps.
        order: Order of the Taylor expansion that replaces the residual, as in `cache.taylorseer`; 0 is no expansion.

    Returns:
        The description of the gate.

    Raises:
        NodeError: If the parameters conflict.
    """
    if coefficients is not None and table is not None:
        raise bad_value("coefficients", "`coefficients` and `table` both give the polynomial: set only one of them")
    if retention_steps and signal == "modulated":
        message = "`retention_steps` compares the embedding of the timestep, so `signal` must be `time`"
        raise bad_value("signal", message)
    warm = RETENTION_STEPS if retention_steps else 1
    limits = Limits(
        warmup_steps=warm if warmup_steps is None else warmup_steps,
        max_consecutive=max_consecutive,
        max_reused=max_reused,
        last=not retention_steps,
    )
    return Gate(
        "teacache",
        signal="time_projection" if retention_steps else signal,
        rule="polynomial",
        threshold=threshold,
        coefficients=numbers("coefficients", coefficients),
        clamp=clamp,
        order=order,
        limits=limits,
        table=None if table is None else str(table),
    )
