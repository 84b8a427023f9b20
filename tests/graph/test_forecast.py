"""Plans and comparisons name the nodes that run and those that are reused; the oracle is the run that follows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from helpers.slow_nodes import CHAIN, LOOP, Run, library_in, started
from sgd.graph.cli.main import main
from sgd.graph.compiler.compile import compile
from sgd.graph.runtime import stored_plan
from sgd.graph.runtime.stored_plan import stored_forecast
from sgd.graph.store.forecast import Forecast

__all__ = ["started"]


def known(tmp_path: Path, workflow: str, **values: Any) -> Forecast:
    file = tmp_path / "p.yaml"
    file.write_text(workflow)
    found = stored_forecast(compile(file, values, None, library_in(tmp_path)), tmp_path / "store", "cpu", {})
    assert found is not None
    return found


def test_nodes_that_would_run_are_those_that_run(tmp_path: Path, started: Run) -> None:
    started(CHAIN, tmp_path / "store")
    found = known(tmp_path, CHAIN)
    assert {id: node.text for id, node in found.nodes.items()} == {"one": "reused", "two": "reused", "file": "runs"}
    assert found.saved_seconds == 2
    assert known(tmp_path, CHAIN, text="xy").those("runs") == ["one", "two", "file"]
    assert started(CHAIN, tmp_path / "store", {"text": "xy"})[1] == ["number xy", "double", "save"]


def test_a_part_of_a_mapping_loop_is_reused(tmp_path: Path, started: Run) -> None:
    started(LOOP, tmp_path / "store")
    found = known(tmp_path, LOOP, texts=["a", "bb", "ccc"])
    assert found.named("runs") == ["encode.one (1 of 3)", "save.two (1 of 3)", "save.file"]
    assert found.named("reused") == ["encode.one (2 of 3)", "save.two (2 of 3)"]
    nodes = found.nodes
    assert nodes["encode.one"].text == nodes["save.two"].text == "2 of 3 reused"
    assert nodes["save.file"].text == "runs"


def test_a_large_file_without_a_hash_is_not_hashed(
    tmp_path: Path, started: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = CHAIN.replace("slow.number, with: {text: $text}", "slow.read, with: {path: data.bin}")
    (tmp_path / "data.bin").write_bytes(b"123")
    started(text, tmp_path / "store")
    monkeypatch.setattr(stored_plan, "remembered_sha256", lambda _: None)
    assert known(tmp_path, text).those("reused") == ["one", "two"]
    monkeypatch.setattr(stored_plan.QuickHashes.__init__, "__defaults__", (2,))
    found = known(tmp_path, text)
    assert (found.those("?"), found.those("runs")) == (["one", "two"], ["file"])
    assert found.unhashed == str(tmp_path / "data.bin")


def test_looking_makes_no_folder_and_is_no_use_of_an_entry(tmp_path: Path, started: Run) -> None:
    plan = compile("quickstart")
    assert stored_forecast(plan, tmp_path / "none", "cpu", {}) is None
    assert not (tmp_path / "none").exists()
    started(CHAIN, tmp_path / "store")
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "store").iterdir()}
    known(tmp_path, CHAIN)
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "store").iterdir()} == before


def test_plan_and_diff_print_it(
    tmp_path: Path, started: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    library_in(tmp_path)
    (tmp_path / "w.yaml").write_text(CHAIN)
    (tmp_path / "other.yaml").write_text(CHAIN.replace("path: n.txt", "path: m.txt"))
    monkeypatch.chdir(tmp_path)
    words = ["--store", "store", "--library", "slow_nodes.py"]
    assert main(["exec", "w.yaml", "--quiet", "--out", "out", *words]) == 0
    assert main(["plan", "w.yaml", *words]) == 0
    text = capsys.readouterr().out
    assert "2 of 3 nodes" in text
    assert "would run: file" in text
    assert main(["plan", "w.yaml", "--json", *words]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["store"]["runs"] == ["file"]
    assert [row["stored"] for row in content["nodes"]] == ["reused", "reused", "runs"]
    assert main(["diff", "w.yaml", "other.yaml", *words]) == 0
    assert "would be reused: one, two" in capsys.readouterr().out
    assert main(["diff", "w.yaml", "other.yaml", "--json", *words]) == 0
    assert json.loads(capsys.readouterr().out)["store"]["reused"] == ["one", "two"]
    assert main(["plan", "w.yaml", "--memory", "8GiB", *words]) == 2
    assert "this machine" in capsys.readouterr().err
