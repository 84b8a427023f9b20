"""The tolerance bound of tuned plans, against a noncentral t distribution of scipy and an example of NIST."""

from __future__ import annotations

from math import sqrt

import numpy as np
import pytest
from scipy.stats import nct, norm
from sgd.nodes.cache.tuning.tolerance_bound import CONFIDENCE, SHARE, factor, lower_bound


@pytest.mark.parametrize("count", [2, 4, 8, 48, 200])
@pytest.mark.parametrize(("share", "confidence"), [(SHARE, CONFIDENCE), (0.9, 0.99)])
def test_the_factor_is_a_quantile_of_the_noncentral_t_distribution(count, share, confidence):
    wanted = nct.ppf(confidence, count - 1, norm.ppf(share) * sqrt(count)) / sqrt(count)
    assert factor(count, share, confidence) == pytest.approx(wanted, rel=1e-3)


def test_the_factor_of_the_handbook_of_nist():
    # Section 7.2.6.3 computes 1.8752 with an approximate formula.
    assert factor(43, 0.9, 0.99) == pytest.approx(1.8752, rel=1e-3)


def test_the_bound_holds_as_often_as_it_says():
    rng = np.random.default_rng(0)
    samples = rng.normal(50, 5, (2000, 8))
    below = norm.ppf(1 - SHARE, 50, 5)  # 999 of 1,000 values are above it
    held = np.mean([lower_bound(sample.tolist()) <= below for sample in samples])
    assert held == pytest.approx(CONFIDENCE, abs=0.015)
