"""`cache.teacache`, `cache.magcache`, `cache.easycache`: gates on accumulated estimates of the change."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Literal

from ....graph.contract.node import Here, Problem, node
from ..calibration.table import problem
from ..gate import Gate, Limits
from .parameters import Count, Order, Ratio, Share, Threshold, checked, described, made, numbers

RETENTION = 0.2  # MagCache, magcache_generate.py: `--retention_ratio`
RETENTION_STEPS = 5  # TeaCache4Wan2.1/teacache_generate.py: `ret_steps = 5*2` calls of two branches


def _teacache(
    *,
    threshold: float | None,
    signal: Literal["auto", "time", "modulated"],
    retention_steps: bool,
    coefficients: list[float] | None,
    table: Path | None,
    clamp: bool,
    warmup_steps: int | None,
    max_consecutive: int | None,
    max_reused: int | None,
    order: int,
) -> Gate:
    if coefficients is not None and table is not None:
        raise ValueError("`coefficients` and `table` each say the polynomial: give one of them")
    if retention_steps and signal == "modulated":
        raise ValueError("`retention_steps` is a way to compare the embedding of the timestep: `signal` is `time` then")
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


def _check(make: Callable[..., Gate], **known: Any) -> Iterator[Problem]:
    yield from checked(make, "threshold", **known)
    found = problem(known.get("table"))
    if found is not None:
        yield Problem("bad-value", "table", str(found), found.help)


@node("cache.teacache", describe=partial(described, _teacache), check=partial(_check, _teacache))
def teacache(
    here: Here,
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
    """Reuse what all blocks add while the estimated change of the output adds up to little (TeaCache, 2411.19108).

    At each step a signal is compared with that of the step before, a polynomial turns its relative change into one of
    the output, and these are added up since the last computed step. Below `threshold` the residual of the whole stack
    is added again. First and last step are computed. Wan's signal, the embedding of the timestep, is known before the
    run, and nothing waits for the device; HunyuanVideo's and FLUX's, the modulated input of the first block, is not.

    The polynomial is one that was published for the model (Wan 2.1, HunyuanVideo, FLUX.1-dev), or your own. None is
    borrowed from another model: `sgd calibrate` fits one.

    Args:
        threshold: What the estimated changes may add up to. Without it, the gentlest that was published for the model;
            a `table` has none.
        signal: What is compared. `time`: the embedding of the timestep (Wan). `modulated`: the first block's input,
            normed and modulated. `auto`: what was published for the family.
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
    values = {name: value for name, value in locals().items() if name != "here"}
    return made(_teacache, here, values)


def _magcache(
    *,
    threshold: float | None,
    max_consecutive: int | None,
    retention: float | None,
    ratios: list[float] | None,
    table: Path | None,
    max_reused: int | None,
    order: int,
) -> Gate:
    if ratios is not None and table is not None:
        raise ValueError("`ratios` and `table` each say the ratios: give one of them")
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


@node("cache.magcache", describe=partial(described, _magcache), check=partial(_check, _magcache))
def magcache(
    here: Here,
    *,
    threshold: Threshold | None = None,
    max_consecutive: Count | None = None,
    retention: Share | None = None,
    ratios: list[Ratio] | None = None,
    table: Path | None = None,
    max_reused: Count | None = None,
    order: Order = 0,
) -> Gate:
    """Reuse what all blocks add while a table says that it hardly changes in size (MagCache, 2506.09045).

    The table has, for each step, the size of the residual over that of the step before. Since the last computed step
    the ratios are multiplied, and the distances of the products from 1 are added up. Up to `threshold` the residual
    is added again. Everything is known before the run.

    Tables were published for HunyuanVideo, Wan, Qwen-Image and FLUX.1-dev; for another number of steps the nearest
    entries are taken. `sgd calibrate` measures one.

    Args:
        threshold: What the error may add up to (magcache_thresh). Without it, that of the origin for the model; a
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
    values = {name: value for name, value in locals().items() if name != "here"}
    return made(_magcache, here, values)


def _easycache(
    *, threshold: float, warmup_steps: int, max_consecutive: int | None, max_reused: int | None, order: int
) -> Gate:
    return Gate(
        "easycache",
        signal="model",
        rule="polynomial",
        threshold=threshold,
        coefficients=(1.0, 0.0),
        order=order,
        limits=Limits(warmup_steps=warmup_steps, max_consecutive=max_consecutive, max_reused=max_reused, last=True),
    )


@node("cache.easycache", describe=partial(described, _easycache), check=partial(checked, _easycache, "threshold"))
def easycache(
    here: Here,
    *,
    threshold: Threshold = 0.05,
    warmup_steps: Count = 10,
    max_consecutive: Count | None = None,
    max_reused: Count | None = None,
    order: Order = 0,
) -> Gate:
    """Reuse the model's whole answer while its input hardly moves (EasyCache, 2507.02860).

    The output is taken to change in proportion to the input, in the proportion seen at the last computed steps. While
    the estimated changes add up to less than `threshold`, what the model last added to its input is added again and
    the transformer does not run at all. First and last steps are computed. Works with every model, without a table.

    Each guidance branch decides for itself; in the origin the positive one decides for both.

    Args:
        threshold: What the estimated relative changes may add up to (thresh; the origin takes 0.05 for Wan 2.1 and
            0.025 for HunyuanVideo).
        warmup_steps: First steps that are computed (ret_steps; the origin takes 10 of 50 for Wan 2.1 and 5 for
            HunyuanVideo).
        max_consecutive: Longest run of reused steps.
        max_reused: Most reused steps.
        order: Order of the Taylor expansion that stands in for what the model adds; 0 is none.

    Returns:
        The description of the gate.

    Raises:
        NodeError: If the parameters do not go together.
    """
    values = {name: value for name, value in locals().items() if name != "here"}
    return made(_easycache, here, values)
