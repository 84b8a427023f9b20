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

    At each step a signal is compared with that of the step before, a polynomial turns its relative change into one of
    the output, and these are added up since the last computed step. Below `threshold` the residual of the whole stack
    is added again. First and last step are computed. Wan's signal, the embedding of the timestep, is known before the
    run, and nothing waits for the device; HunyuanVideo's and FLUX's, the modulated input of the first block, is not.

    The polynomial is one that was published for the model (Wan 2.1, HunyuanVideo, FLUX.1-dev), or your own. None is
    borrowed from another model: `sgd calibrate` fits one.

    Args:
        threshold: Largest sum of the estimated changes. Without it, the smallest that was published for the model; a
            `table` has none.
        signal: The tensor that is compared. `time`: the embedding of the timestep (Wan). `modulated`: the first block's
            input, normed and modulated. `auto`: the signal that was published for the family.
        retention_steps: Wan only: compare the embedding's projection, compute the first five steps and not necessarily
            the last, with coefficients of their own (use_ret_steps).
        coefficients: The polynomial, highest order first.
        table: A table that `sgd calibrate` wrote for this model and schedule.
        clamp: Count changes below 0 as 0. Several published polynomials are negative inside of plausible ranges; the
            origin takes them as they are.
        warmup_steps: First steps that are computed. Without it 1, and 5 with `retention_steps`.
        max_consecutive: Longest run of reused steps.
        max_reused: Most reused steps.
        order: Order of the Taylor expansion that stands in for the residual, as in `cache.taylorseer`; 0 is none.

    Returns:
        The description of the gate.

    Raises:
        NodeError: If the parameters do not go together.
    """
    if coefficients is not None and table is not None:
        raise bad_value("coefficients", "`coefficients` and `table` each say the polynomial: give one of them")
    if retention_steps and signal == "modulated":
        message = "`retention_steps` is a way to compare the embedding of the timestep: `signal` is `time` then"
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
