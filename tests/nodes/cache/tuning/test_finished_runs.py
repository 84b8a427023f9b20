"""Runs of `sgd tune` that are kept for the next call, the time that is left, and a table that joins another one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from sgd.graph.contract.workflow_folders import bundled_workflows
from sgd.nodes.cache.tuning import remaining_time
from sgd.nodes.cache.tuning.finished_runs import FinishedFile, FinishedRuns
from sgd.nodes.cache.tuning.made_table import with_others
from sgd.nodes.cache.tuning.remaining_time import RemainingTime, duration
from sgd.nodes.cache.tuning.tuned_table import TunedTable, read

NORMS = (100.0, 50.0)


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    path = tmp_path / "kept.json"
    long, short = FinishedRuns({"steps": 50}, NORMS, gains={"2": {"a": 1.5}}), FinishedRuns({"steps": 20}, NORMS)
    file = FinishedFile(path)
    file.others = [short]
    path.write_text(json.dumps(file.content(long)))
    return path


def test_a_tuning_goes_on_with_its_own_runs_and_keeps_others(kept):
    file = FinishedFile(kept)
    found = file.of(FinishedRuns({"steps": 50}, (100.05, 49.98)))  # another device rounds differently
    assert found.gains == {"2": {"a": 1.5}}
    assert [each.key for each in file.others] == [{"steps": 20}]
    assert [each["key"] for each in file.content(None)["tunings"]] == [{"steps": 20}]


@pytest.mark.parametrize(
    "other",
    [
        FinishedRuns({"steps": 30}, NORMS),
        FinishedRuns({"steps": 50}, (101.0, 50.0)),
        FinishedRuns({"steps": 50}, (1.0,)),
    ],
    ids=["key", "seed", "length"],
)
def test_runs_of_another_tuning_are_not_used(kept, other):
    file = FinishedFile(kept)
    assert file.of(other) is other
    assert len(file.others) == 2
    assert file.problem is None


@pytest.mark.parametrize("text", ["", "{}", '{"tunings": [{"a": 1}]}', "[1]"])
def test_a_damaged_file_is_named(kept, text):
    kept.write_text(text)
    file = FinishedFile(kept)
    fresh = FinishedRuns({"steps": 50}, NORMS)
    assert file.of(fresh) is fresh
    assert file.problem == "it is damaged"


def test_the_time_is_said_after_the_first_run_and_progress_now_and_then(monkeypatch):
    now: list[float] = [0.0]
    said: list[str] = []
    monkeypatch.setattr(remaining_time.time, "monotonic", lambda: now[0])
    left = RemainingTime(said.append, measuring=4, choosing=20)
    for _ in range(5):
        now[0] += 6
        left.ran(6)
    assert said == [
        "a run takes 6.0 s, so it takes 24 s to measure, and 2 min at most to try plans",
        "3 of at most 24 runs are done; 6.0 s left to measure",
        "5 of at most 24 runs are done",
    ]
    assert [duration(each) for each in (0.84, 59, 300, 9000)] == ["0.8 s", "59 s", "5 min", "2.5 h"]


def test_a_table_keeps_schedules_of_the_same_model_and_names_what_it_replaces(tmp_path):
    both = read(bundled_workflows() / "tables" / "quickstart_tuned.json")
    twenty, fifty = both.schedules
    path = tmp_path / "table.json"

    def joined(own: TunedTable, old: TunedTable | None) -> tuple[list[int], str | None]:
        if old is not None:
            path.write_text(old.model_dump_json())
        made, lost = with_others(own, path)
        return list(made.counts), lost

    one = both.model_copy(update={"schedules": [fifty]})
    other = both.model_copy(update={"schedules": [twenty]})
    assert joined(one, None) == ([50], None)
    assert joined(one, other) == ([20, 50], None)
    counts, lost = joined(one, both.model_copy(update={"component": "other"}))
    assert counts == [50]
    assert lost is not None
    assert "it was of another model" in lost
    for others in ({"chosen": ["x"]}, {"seeds": "one for all clips"}):
        of_others = fifty.model_copy(update=others)
        counts, lost = joined(one, both.model_copy(update={"schedules": [twenty, of_others]}))
        assert counts == [20, 50]
        assert lost is not None
        assert "for 50 steps are replaced" in lost
    path.write_text("{}")
    _, lost = with_others(one, path)
    assert lost is not None
    assert "is replaced" in lost
