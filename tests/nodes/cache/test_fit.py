"""Fits of known polynomials and means of known numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest
from helpers.oracle_teacache import Rule
from sgd.nodes.cache.calibration import fit
from sgd.nodes.cache.gate import Gate, Limits

# FLUX.1-dev's published polynomial, ali-vilab/TeaCache, TeaCache4FLUX/teacache_flux.py.
FLUX = (4.98651651e02, -2.83781631e02, 5.58554382e01, -3.82021401e00, 2.64230861e-01)


def test_a_known_polynomial_is_found_again():
    x = np.linspace(0.01, 0.35, 40)
    found = fit.polynomial(x.tolist(), np.polyval(FLUX, x).tolist())
    assert found["coefficients"] == pytest.approx(FLUX, rel=1e-6)
    assert (found["points"], found["least"], found["most"]) == (40, 0.01, 0.35)
    assert found["r2"] == pytest.approx(1)
    assert found["rms"] < 1e-9


def test_noise_is_reported():
    generator = np.random.default_rng(0)
    x = generator.uniform(0.01, 0.35, 20_000)
    y = np.polyval(FLUX, x) + generator.normal(0, 0.05, x.size)
    found = fit.polynomial(x.tolist(), y.tolist())
    assert found["rms"] == pytest.approx(0.05, rel=0.02)
    assert found["r2"] == pytest.approx(1 - 0.05**2 / y.var(), rel=1e-3)


@pytest.mark.parametrize("order", [1, 2, 5])
def test_the_order_is_that_asked_for(order):
    assert len(fit.polynomial([i / 10 for i in range(9)], [i**2 for i in range(9)], order)["coefficients"]) == order + 1


def test_points_that_are_no_numbers_are_left_out():
    x, y = [0.1, 0.2, math.nan, 0.3, 0.4], [1.0, 2.0, 3.0, 3.0, math.inf]
    found = fit.polynomial(x, y, 1)
    assert found["points"] == 3
    assert found["coefficients"] == pytest.approx([10.0, 0.0], abs=1e-9)


def test_too_few_different_points_give_nothing():
    assert fit.polynomial([0.1, 0.2, 0.3, 0.4] * 10, list(range(40))) is None
    assert fit.polynomial([0.1, 0.2, 0.3, 0.4, 0.5] * 10, list(range(50))) is not None
    assert fit.polynomial([], []) is None


def test_an_output_that_does_not_vary_has_no_share_to_explain():
    assert fit.polynomial([0.1, 0.2, 0.3], [1.0, 1.0, 1.0], 1)["r2"] is None


def test_means_are_taken_step_by_step():
    assert fit.means([(1, 2.0), (3, 5.0), (1, 4.0), (3, math.nan)], 5) == [None, 3.0, None, 5.0, None]


def test_thresholds_reuse_the_predicted_steps():
    steps, changes = 20, [None, *(0.02 + 0.01 * math.sin(i) for i in range(19))]
    gate = Gate("teacache", signal="time", rule="polynomial", coefficients=(2.0, 0.0), limits=Limits(1, last=True))
    found = fit.thresholds(gate, changes, steps)
    assert len(found) == 3
    for threshold, computed in found.items():
        rule, accumulated, count = Rule((2.0, 0.0), threshold, steps, 1, 1), 0.0, 0
        for step, change in enumerate(changes):  # the formula of 2411.19108
            accumulated += 2.0 * (change or 0.0)
            computes = step in rule.forced or accumulated >= threshold
            accumulated = 0.0 if computes else accumulated
            count += computes
        assert count == computed
    assert [computed <= share * steps for computed, share in zip(found.values(), fit.SHARES, strict=True)] == [True] * 3
