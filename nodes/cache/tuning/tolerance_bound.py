"""One-sided normal tolerance bounds: a value that nearly all of a population exceeds, from a sample. Torch-free.

The bound is `mean - k * deviation`. With the wanted confidence, the wanted share of a normal population lies above it.
Source: NIST/SEMATECH e-Handbook of Statistical Methods, section 7.2.6.3, after M. G. Natrella, Experimental Statistics,
NBS Handbook 91, 1963, and ISO 16269-6.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from statistics import NormalDist, mean, stdev

import numpy as np

SHARE, CONFIDENCE = 0.999, 0.95
"""The share of clips that keeps the bound, and the confidence in that."""


def lower_bound(values: Sequence[float]) -> float:
    """The one-sided normal tolerance bound of a sample, for `SHARE` and `CONFIDENCE`.

    Args:
        values: Two values or more.
    """
    return mean(values) - factor(len(values), SHARE, CONFIDENCE) * stdev(values)


@cache
def factor(count: int, share: float, confidence: float) -> float:
    """The factor k for a sample of `count` values, 2 or more.

    Let u be the deviation of the sample divided by the true one, and z the quantile of `share`. Then `confidence` is
    the chance that a normal deviate is below √count · (k u - z). So √count · k is a quantile of a noncentral t
    distribution.
    """
    free, z, root = count - 1, NormalDist().inv_cdf(share), math.sqrt(count)
    u = (np.arange(4000) + 0.5) / 4000 * (1.0 + 9.0 / math.sqrt(free))
    # Density of u: free * u^2 has the chi-squared distribution of `free` degrees of freedom.
    log = (free - 1) * np.log(u) - free * u**2 / 2
    density = np.exp(log - log.max())
    density /= density.sum()

    def chance(k: float) -> float:
        below = [0.5 * math.erfc(-at / math.sqrt(2)) for at in root * (k * u - z)]
        return float(density @ below)

    low, high = 0.0, 1.0
    while chance(high) < confidence:
        high *= 2
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if chance(middle) < confidence else (low, middle)
    return (low + high) / 2
