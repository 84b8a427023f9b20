"""Measuring a run costs at most a hundredth of it, and little more in a run that counts."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import sgd
from benchmarks import profile_cost
from sgd.graph.contract.events import Observer
from sgd.graph.runtime.observers import work_count

BUDGET = 0.01
COUNTING = 0.015
"""The same for a run that counts. Here a run has no imports, which are half of a command's time."""


class Slow(Observer):
    """Takes two milliseconds of the processor after each call."""

    def node_finished(self, *_: Any) -> None:
        began = time.thread_time()
        while time.thread_time() - began < 2e-3:
            pass


@pytest.mark.slow
def test_measuring_takes_a_hundredth_of_the_quickstart_at_most(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    plan = sgd.compile("quickstart")
    first = profile_cost.measured(plan, tmp_path)
    assert first.counted > 0
    assert first.counting > 0
    assert first.share <= COUNTING
    counted = first.counted
    for _ in range(10):  # a count that was given up goes on
        later = profile_cost.measured(plan, tmp_path)
        counted += later.counted
        if not later.counted:
            break
        assert later.share <= COUNTING
    # A counted operation is slower, and the share does not see that: nothing may be counted.
    assert later.counted == 0
    assert 0 < later.share <= BUDGET
    assert later.sampler > 0
    another = profile_cost.measured(sgd.compile("quickstart"), tmp_path)  # remembers, as another process does
    assert another.counted < counted / 2
    assert profile_cost.measured(plan, tmp_path, [Slow()]).share > BUDGET  # 70 calls: the measure sees it


@pytest.mark.slow
def test_all_runs_of_a_plan_have_equal_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work_count, "SHARE", 0.2)  # these runs are short
    inputs, small = {"steps": 14, "cache": 0.4}, {"noise.width": 32, "noise.height": 32, "noise.frames": 5}
    plan = sgd.compile("quickstart", inputs=inputs, set=small)
    runs: list[list[dict[str, Any]]] = []
    while not runs or any(row.get("uncounted") for row in runs[-1]):
        assert len(runs) < 20, "the count does not come to its end"
        runs.append(sgd.run(plan, out=tmp_path / str(len(runs))).record["nodes"])
    runs.append(sgd.run(plan, out=tmp_path / "last").record["nodes"])
    work = [{row["name"]: (row["flops"], row["bytes"]) for row in rows} for rows in runs]
    assert work[-2] == work[-1]
    for first, rows in zip(work, runs, strict=True):  # a count may be put off, and is never wrong
        off = {row["name"] for row in rows if row.get("uncounted")}
        assert {name: each for name, each in first.items() if name not in off} == {
            name: each for name, each in work[-1].items() if name not in off
        }
    assert work[-1]["denoise.loop.predict"][0] > 0
    other = sgd.compile("quickstart", inputs=inputs, set={**small, "noise.width": 48})
    for number in range(len(runs)):
        record = sgd.run(other, out=tmp_path / f"other {number}").record
    flops = {row["name"]: row["flops"] for row in record["nodes"]}
    assert flops["frames"] > work[-1]["frames"][0]
