"""The plan that `sgd tune` chooses: every clip and the tolerance bound keep the PSNR, and few clips are made."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, cast

from sgd.nodes.cache.tuning.finished_runs import FinishedRuns
from sgd.nodes.cache.tuning.step_plan import StepPlan
from sgd.nodes.cache.tuning.tune import Tuning

CLIPS = ("one", "two", "three", "four", "five")
PLANS = {count: StepPlan("1" * count + "0" * (10 - count)) for count in range(2, 10)}


class Made:
    """The state of a tuning whose clips have given PSNRs for a number of computed steps; `tried` counts the clips."""

    def __init__(self, psnr: Mapping[int, tuple[float, ...]]) -> None:
        self.psnr = psnr
        self.tried: dict[int, int] = {}
        self.said: list[str] = []

    def fidelity(self, prompt: str, plan: StepPlan) -> float:
        self.tried[plan.computed] = self.tried.get(plan.computed, 0) + 1
        return self.psnr[plan.computed][CLIPS.index(prompt)]

    def choose(self, psnr: float) -> StepPlan | None:
        state: Any = SimpleNamespace(
            finished=FinishedRuns({}, ()),
            others=CLIPS,
            runs=self,
            keep=lambda: None,
            told=set(),
            workflow=SimpleNamespace(say=self.said.append),
        )
        return Tuning.choose(cast(Tuning, state), PLANS, psnr)


def test_the_bound_decides_where_clips_differ_much():
    alike, spread = (51.0, 52.0, 51.0, 52.0, 51.0), (51.0, 60.0, 70.0, 80.0, 90.0)
    made = Made({count: spread if count < 7 else alike for count in PLANS})
    chosen = made.choose(46)
    assert chosen is not None
    assert chosen.computed == 7
    assert all(tried == len(CLIPS) for tried in made.tried.values())


def test_the_worst_clip_decides_where_clips_differ_little():
    made = Made({count: tuple(40.0 + count + clip / 100 for clip in range(5)) for count in PLANS})
    chosen = made.choose(45.5)
    assert chosen is not None
    assert chosen.computed == 6


def test_a_plan_that_fails_in_one_clip_is_not_tried_with_the_rest():
    made = Made({count: (50.0, 30.0 if count < 9 else 50.0, 50.0, 50.0, 50.0) for count in PLANS})
    chosen = made.choose(46)
    assert chosen is not None
    assert chosen.computed == 9
    assert {count: tried for count, tried in made.tried.items() if count < 9} == dict.fromkeys(
        made.tried.keys() - {9}, 2
    )
    assert any("30.0 dB in clip 2 of 5, too little" in line for line in made.said)
