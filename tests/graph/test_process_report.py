"""The report of a run in several processes, and its comparison with one in one process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from helpers.report_records import record, write_run
from jsonschema import Draft202012Validator
from sgd.graph.cli import main
from sgd.graph.cli.report.process_section import section
from sgd.graph.cli.report.run_record import RunRecord

SCHEMA = json.loads((Path(__file__).parents[2] / "docs" / "run.schema.json").read_text())["properties"]
MESH = {"branches": 2, "ulysses": 2, "ring": 1}


def rows() -> list[dict[str, Any]]:
    return [
        {
            "rank": rank,
            "seconds": 8.0 + rank,
            "waited_seconds": 2.0 * rank,
            "exchanged_bytes": (rank + 1) << 30,
            "peak_bytes": (3 - rank) << 30 if rank < 3 else None,
            "nodes": [{"name": "work.loop.predict", "calls": 10, "seconds": 5.5 + rank}]
            + ([{"name": "save", "calls": 1, "seconds": 0.25}] if rank == 0 else []),
        }
        for rank in range(4)
    ]


def test_a_row_and_charts_for_each_process() -> None:
    given = record(parallel=MESH, processes=rows())
    for name in ("parallel", "processes"):
        Draft202012Validator(SCHEMA[name]).validate(given[name])
    made = section(RunRecord.model_validate(given))
    assert made is not None
    assert "4 processes, branches=2,ulysses=2" in (made.about or "")
    body = str(made.body)
    for text in ("branches 1, ulysses 0", "4.00", "40.0%", "3.00 GiB", "1.00 GiB", "6.50", "–"):
        assert text in body, text
    charts = [json.loads(part.split('"')[1].replace("&#34;", '"')) for part in body.split("data-chart=")[1:]]
    assert [[(s["label"], s["values"]) for s in chart["series"]] for chart in charts] == [
        [("seconds", [8, 9, 10, 11]), ("waited", [0, 2, 4, 6])],
        [("sent", [1 << 30, 2 << 30, 3 << 30, 4 << 30])],
    ]
    assert section(RunRecord.model_validate(record())) is None


def test_the_page_and_the_comparison(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kernels = [
        {"rank": rank, "node": "save", "name": "copy", "calls": 1, "device_seconds": None, "seconds": 0.1}
        for rank in (0, 1)
    ]
    one = write_run(tmp_path / "one")
    four = write_run(tmp_path / "four", parallel=MESH, processes=rows(), kernels=kernels)
    assert main.main(["report", str(four), "--out", str(tmp_path / "four.html")]) == 0
    page = (tmp_path / "four.html").read_text()
    assert page.index(">Nodes<") < page.index(">Processes<") < page.index(">Steps<")
    assert '<button type="button">rank</button>' in page
    capsys.readouterr()
    assert main.main(["report", "--compare", str(one), str(four), "--out", str(tmp_path / "both.html")]) == 0
    told = capsys.readouterr().out
    assert "  processes: (none) -> branches=2,ulysses=2\n" in told
    assert "branches=2,ulysses=2" in (tmp_path / "both.html").read_text()
