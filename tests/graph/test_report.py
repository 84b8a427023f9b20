"""Tables for people: units, alignment, what stands in what."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from helpers.machines import call, graph, loop, plan_of
from sgd.graph.cli.plan_table import plan_table
from sgd.graph.cli.run_table import run_table
from sgd.graph.cli.tables import each, shape, tree
from sgd.graph.compiler.ir import Var
from sgd.graph.contract.text_tables import columns, count, seconds
from sgd.graph.runtime.estimate import estimate
from sgd.graph.runtime.run import run


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "-"), (0.0, "0.0000"), (0.01234, "0.0123"), (0.1, "0.10"), (99.994, "99.99"), (123.4, "123")],
)
def test_seconds(value: float | None, text: str) -> None:
    assert seconds(value) == text


@pytest.mark.parametrize(
    ("value", "unit", "base", "text"),
    [
        (None, "B", 1024, "-"),
        (0, "", 1000, "-"),
        (999, "", 1000, "999"),
        (1000, "", 1000, "1.00 k"),
        (1_420_000_000, "", 1000, "1.42 G"),
        (15_300, "", 1000, "15.3 k"),
        (1536, "B", 1024, "1.50 KiB"),
        (10**20, "", 1000, "100000 P"),
    ],
)
def test_counts(value: float | None, unit: str, base: int, text: str) -> None:
    assert count(value, unit, base) == text


def test_columns_are_as_wide_as_their_widest_cell() -> None:
    assert columns([["a", "1"], ["long", "200"]], right=[1]) == ["a       1", "long  200"]
    assert columns([]) == []


def test_lists_in_lists_are_gone_through() -> None:
    assert list(each([["a"], [], ["b", ["c"]]])) == ["a", "b", "c"]
    assert list(each("abc")) == ["abc"]


def test_rows_follow_their_loop_or_composite() -> None:
    assert tree(["b", "l", "a", "l.x", "l.m", "l.m.y"]) == ["b", "l", "l.x", "l.m", "l.m.y", "a"]


@pytest.mark.parametrize(
    ("output", "text"),
    [
        ({}, ""),
        ({"shape": [1, 16, 4], "dtype": "float32"}, "1x16x4 float32"),
        ({"shape": [2], "count": 3}, "3 x 2"),
        ({"steps": 30}, "30 steps"),
    ],
)
def test_shapes(output: dict[str, Any], text: str) -> None:
    assert shape([output]) == text
    assert shape([]) == ""


def given() -> Any:
    body = graph(
        call("l.k", "m.const", value=2),
        call("l.x", "m.add", a=Var("l", "c"), b="$l.k"),
        call("l.y", "m.add", a=Var("l", "c"), b="$l.k"),
        x="$l.x",
        y="$l.y",
    )
    return graph(call("cs", "m.cells"), loop("l", {"c": "$cs"}, body), x="$l:x", y="$l:y")


def test_the_table_of_a_run_has_a_line_for_each_row_and_a_total(tmp_path: Path) -> None:
    record = dict(run(plan_of(given()), out=tmp_path).record)
    outside = {"(import)": 0.0, "(other)": 0.25}
    record["nodes"] = [{**row, "seconds": outside.get(row["name"], row["seconds"])} for row in record["nodes"]]
    lines = run_table(record).splitlines()
    assert lines[0].split() == ["node", "type", "calls", "seconds", "share", "peak", "output"]
    assert [line.split()[0] for line in lines[1:-2]] == ["cs", "l", "k", "x", "y", "(other)"]
    assert lines[3].startswith("  k ")
    assert lines[5].endswith("same as l.x")
    assert lines[1].endswith("3 x 1 whole")
    assert lines[-1].startswith("done in ")
    assert all(f"{phase} " in lines[-1] for phase in record["phases"])


def test_device_seconds_have_a_column_where_there_are_some(tmp_path: Path) -> None:
    record = dict(run(plan_of(given()), out=tmp_path).record)
    record["nodes"] = [{**row, "device_seconds": 1.5} for row in record["nodes"]]
    lines = run_table(record).splitlines()
    assert "device s" in lines[0]
    assert "1.50" in lines[1]


def test_the_table_of_a_plan_says_whether_it_fits() -> None:
    done = estimate(plan_of(given()), memory_bytes=2**30)
    assert done["fits"] is True
    lines = plan_table(done).splitlines()
    calls = [line.split()[:3] for line in lines[1:4]]
    assert calls == [["cs", "m.cells", "1"], ["l.k", "m.const", "1"], ["l.x", "m.add", "3"]]
    assert lines[-1] == "total -FLOP, peak memory - of 1.00 GiB on cpu: fits"
    assert plan_table({**done, "fits": False, "warnings": ["mind the gap"]}).endswith(
        "on cpu: does not fit\nwarning: mind the gap"
    )
