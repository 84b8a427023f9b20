"""Plans of tuned gates, against all masks tried one after the other, and against exact cases."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from sgd.nodes.cache.tuning.choose_plan import choose_plan, most_tried
from sgd.nodes.cache.tuning.find_plans import PREDICTED, Gaps, find_plans
from sgd.nodes.cache.tuning.linear_predictor import Measurement
from sgd.nodes.cache.tuning.step_plan import StepPlan

STEPS = 8


def measured(seed: int = 0, width: int = 40) -> tuple[Measurement, np.ndarray]:
    """Velocities that turn slowly, with some noise."""
    numbers = np.random.default_rng(seed)
    ways, times = numbers.normal(size=(3, width)), np.linspace(0, 1, STEPS)[:, None]
    velocities = ways[0] + times * ways[1] + times**2 * ways[2] + 0.1 * numbers.normal(size=(STEPS, width))
    deltas = -np.linspace(0.05, 0.2, STEPS)
    return Measurement(velocities @ velocities.T, deltas, np.linspace(0.6, 1.0, STEPS + 1)), velocities


def gap_error(velocities: np.ndarray, deltas: np.ndarray, steps: range, known: tuple[int, ...]) -> float:
    """The squared error of a gap by least squares on the velocities themselves, without the ridge."""
    total = np.zeros(velocities.shape[1])
    for step in steps:
        weights, *_ = np.linalg.lstsq(velocities[list(known)].T, velocities[step], rcond=None)
        total += deltas[step] * (weights @ velocities[list(known)] - velocities[step])
    return float(total @ total)


def cost_of(computed: tuple[int, ...], found: Measurement, velocities: np.ndarray) -> float:
    total = 0.0
    for number, (last, following) in enumerate(zip(computed, (*computed[1:], STEPS), strict=True)):
        between = range(last + 1, following)
        known = computed[max(number - 1, 0) : number + 1]
        predicted = gap_error(velocities, found.deltas, between, known)
        gain = found.gains[following] ** 2
        if following == STEPS:
            total += gain * predicted
        else:
            corrected = gap_error(velocities, found.deltas, between, (last, following))
            total += gain * (corrected + PREDICTED * predicted)
    return total


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("count", [2, 3, 5, 7])
def test_no_other_mask_costs_less(seed, count):
    found, velocities = measured(seed)
    plan = find_plans(found)[count]
    computed = tuple(step for step, digit in enumerate(plan.mask) if digit == "1")
    others = {(0, *rest): cost_of((0, *rest), found, velocities) for rest in combinations(range(1, STEPS), count - 1)}
    assert len(computed) == count
    assert others[computed] == pytest.approx(min(others.values()), rel=1e-3)
    assert max(others.values()) > 2 * others[computed]


def test_velocities_on_a_line_are_predicted_exactly():
    numbers = np.random.default_rng(3)
    start, way = numbers.normal(size=(2, 30))
    velocities = start + np.linspace(0, 1, STEPS)[:, None] * way
    found = Measurement(velocities @ velocities.T, -np.full(STEPS, 1 / STEPS), np.ones(STEPS + 1))
    plan = find_plans(found)[2]
    assert plan.mask.startswith("11")
    for step, weights in plan.predicted.items():
        # On a line, c_i = (1 + k) c_1 - k c_0 with k = i - 1 steps of c_1 - c_0.
        assert weights == pytest.approx((step, 1 - step), abs=1e-2 * step)


def test_a_plan_ends_where_the_corrections_say():
    found, velocities = measured(4)
    plan = Gaps(found).plan((0, 1, 4, 6))
    made, latest, before = np.zeros(velocities.shape[1]), None, None
    for step, digit in enumerate(plan.mask):
        if digit == "1":
            used = velocities[step]
            if step in plan.corrected:
                own, last, earlier = plan.corrected[step]
                used = used + own * velocities[step] + last * latest + earlier * before
            latest, before = velocities[step], latest
        else:
            weights = plan.predicted[step]
            used = weights[0] * latest + weights[1] * before
        made = made + found.deltas[step] * used
    # The same path by the method itself: a step of a gap counts as corrected once the gap has ended.
    exact = found.deltas[[0, 1, 4, 6]] @ velocities[[0, 1, 4, 6]]
    for step, known in ((2, (1, 4)), (3, (1, 4)), (5, (4, 6)), (7, (4, 6))):
        weights, *_ = np.linalg.lstsq(velocities[list(known)].T, velocities[step], rcond=None)
        exact = exact + found.deltas[step] * (weights @ velocities[list(known)])
    assert made == pytest.approx(exact, abs=1e-4)


def test_every_step_computed_needs_no_weights():
    plan = find_plans(measured()[0])[STEPS]
    assert (plan.mask, dict(plan.predicted), dict(plan.corrected)) == ("1" * STEPS, {}, {})


def test_the_cheapest_plan_that_keeps_the_psnr_is_chosen_with_few_tries():
    plans = {count: StepPlan("1" * count + "0" * (50 - count)) for count in range(4, 51)}
    tried = []

    def kept(plan: StepPlan) -> float:
        tried.append(plan.computed)
        return float(plan.computed)

    for wanted in (4, 17, 33.5, 49):
        tried.clear()
        chosen = choose_plan(plans, wanted, kept)
        assert chosen is not None
        assert chosen.computed == -(-wanted // 1)
        assert len(tried) <= most_tried(50)
    assert choose_plan(plans, 60, kept) is None
