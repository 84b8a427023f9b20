"""Fit TeaCache's polynomial to measured changes, average runs, and predict the effect of a threshold."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from math import isfinite
from typing import Any

import numpy as np

from ..engine.decide import schedule
from ..gate import Gate

ORDER = 4  # ali-vilab/TeaCache, issue 2: `np.polyfit(x, y, 4)`
SHARES = (0.75, 0.5, 1 / 3)


def polynomial(x: Sequence[float], y: Sequence[float], order: int = ORDER) -> dict[str, Any] | None:
    """Fit a polynomial to points by least squares.

    Args:
        x: Relative changes of a signal.
        y: Relative changes of the output at the same steps. A pair with a number that is not finite is left out.
        order: Order of the polynomial.

    Returns:
        `coefficients`, highest order first; `r2`, the share of the variance of y that the polynomial explains (None if
        y is constant); `rms`, the root mean square of the residuals; `points`, the number of pairs; `least` and `most`,
        the range of x. None if there are too few different x to determine the polynomial.
    """
    pairs = [(a, b) for a, b in zip(x, y, strict=True) if isfinite(a) and isfinite(b)]
    if len({a for a, _ in pairs}) <= order:
        return None
    given, wanted = np.array(pairs).T
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", np.exceptions.RankWarning)  # the code below checks the rank
        coefficients, _, rank, _, _ = np.polyfit(given, wanted, order, full=True)
    if rank <= order:
        return None
    left = float(np.sum((np.polyval(coefficients, given) - wanted) ** 2))
    whole = float(np.sum((wanted - wanted.mean()) ** 2))
    return {
        "coefficients": coefficients.tolist(),
        "r2": 1.0 - left / whole if whole > 0 else None,
        "rms": (left / len(pairs)) ** 0.5,
        "points": len(pairs),
        "least": float(given.min()),
        "most": float(given.max()),
    }


def means(values: Iterable[tuple[int, float]], steps: int) -> list[float | None]:
    """The mean of the finite measurements of each step; None for a step without a finite measurement."""
    found: dict[int, list[float]] = {}
    for index, value in values:
        if isfinite(value):
            found.setdefault(index, []).append(value)
    return [sum(found[index]) / len(found[index]) if index in found else None for index in range(steps)]


def thresholds(gate: Gate, changes: Sequence[float | None] | None, steps: int) -> Mapping[float, int]:
    """Find thresholds with which a gate would compute about three quarters, half and a third of the steps.

    Args:
        gate: A resolved gate; its threshold is not used.
        changes: The signal's mean change at each step, for rules that compare a signal.
        steps: Number of steps.

    Returns:
        Thresholds with three digits, and for each the number of steps that would be computed.
    """

    def computed(threshold: float) -> int:
        distance = None if changes is None else lambda before, now: changes[now] or 0.0
        made = schedule(replace(gate, threshold=threshold), steps, "positive", range(steps), distance)
        return sum(decision.computed for decision in made.values())

    found: dict[float, int] = {}
    for share in SHARES:
        low, high = 0.0, 1e-4
        while computed(high) > share * steps and high < 1e6:
            low, high = high, high * 2
        if high >= 1e6:
            continue
        for _ in range(20):
            middle = (low + high) / 2
            low, high = (middle, high) if computed(middle) > share * steps else (low, middle)
        threshold = float(f"{high * 1.005:.3g}")  # rounded upwards
        found[threshold] = computed(threshold)
    return found
