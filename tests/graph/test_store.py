"""Stored results: calls that run again, and calls that do not. The oracles: their number, runs without a store."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from helpers.slow_nodes import CHAIN, LOOP, Run, started
from jsonschema import Draft202012Validator
from sgd.graph.cli.run_table import run_table
from sgd.graph.contract.errors import NodeError
from sgd.graph.runtime import stored_steps
from sgd.graph.runtime.node_rows import node_rows
from sgd.graph.runtime.observers.profile import Row
from sgd.graph.runtime.profiling import Profiling
from sgd.graph.runtime.run_result import Result
from sgd.graph.store import entries
from sgd.graph.store.entries import FolderStore, MemoryStore

SCHEMA = json.loads((Path(__file__).parents[2] / "docs" / "run.schema.json").read_text())
__all__ = ["started"]
ROWS = Draft202012Validator(SCHEMA["properties"]["nodes"])


def rows(result: Result) -> dict[str, Any]:
    return {row["name"]: row for row in result.record["nodes"]}


def test_a_second_run_runs_effects_alone(tmp_path: Path, started: Run) -> None:
    store = tmp_path / "store"
    first, calls = started(CHAIN, store)
    assert calls == ["number abc", "double", "save"]
    second, calls = started(CHAIN, store)
    assert calls == ["save"]
    assert (second.folder / "n.txt").read_bytes() == (first.folder / "n.txt").read_bytes()
    assert rows(second)["two"]["calls"] == 0
    assert rows(second)["two"]["reused"] is True
    assert rows(second)["two"]["saved_seconds"] == 1
    assert rows(second)["one"]["reused"] is True
    assert second.record["warnings"] == first.record["warnings"] == ["one: it is slow"]
    ROWS.validate(second.record["nodes"])
    assert stat.S_IMODE(store.stat().st_mode) == 0o700


def test_stored_events_keep_their_own_numbers(tmp_path: Path, started: Run) -> None:
    text = CHAIN.replace("slow.double", "slow.decide")
    for number in (1, 2, 3):
        found, calls = started(text, tmp_path / "store")
        assert ("decide" in calls) is (number == 1)
        stored = {} if number == 1 else {"stored": True}
        assert found.record["gate_totals"] == [{"node": "two", "computed": 3, "reused": 2, **stored}]
        assert found.record["gates"][0].get("reused") is (None if number == 1 else True)


def test_a_changed_effect_runs_alone_and_a_changed_node_with_those_after_it(tmp_path: Path, started: Run) -> None:
    started(CHAIN, tmp_path / "store")
    assert started(CHAIN, tmp_path / "store", None, {"file.mark": "x"})[1] == ["save"]
    assert started(CHAIN, tmp_path / "store", {"text": "abcd"})[1] == ["number abcd", "double", "save"]
    third, calls = started(
        CHAIN.replace("slow.double", "slow.number").replace("a: $one", "text: abc"), tmp_path / "store"
    )
    assert calls == ["save"]  # an equal call under another name
    assert third.record["warnings"][-1] == "two: it is slow"
    assert rows(third)["two"]["detail"]["chosen"] == "tiles"


def test_one_more_entry_of_a_mapping_loop_computes_one(tmp_path: Path, started: Run) -> None:
    started(LOOP, tmp_path / "store")
    more, calls = started(LOOP, tmp_path / "store", {"texts": ["a", "bb", "ccc"]})
    assert sorted(calls) == ["double", "number ccc", "save", "save", "save"]
    fresh, _ = started(LOOP, None, {"texts": ["a", "bb", "ccc"]})
    for n in range(3):
        assert (more.folder / f"n-{n}.txt").read_bytes() == (fresh.folder / f"n-{n}.txt").read_bytes()


def test_another_byte_of_a_file_computes(tmp_path: Path, started: Run) -> None:
    text = CHAIN.replace("slow.number, with: {text: $text}", "slow.read, with: {path: data.bin}")
    text = text.replace("inputs: {text: {type: str, default: abc}}\n", "")
    (tmp_path / "data.bin").write_bytes(b"123")
    assert started(text, tmp_path / "store")[1] == ["read", "double", "save"]
    assert started(text, tmp_path / "store")[1] == ["save"]
    before = (tmp_path / "data.bin").stat()
    (tmp_path / "data.bin").write_bytes(b"124")
    os.utime(tmp_path / "data.bin", ns=(before.st_atime_ns, before.st_mtime_ns))
    assert started(text, tmp_path / "store")[1] == ["read", "double", "save"]


@pytest.mark.parametrize("what", ["machine", "packages_of"])
def test_another_card_or_package_computes(
    tmp_path: Path, started: Run, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    started(CHAIN, tmp_path / "store")
    monkeypatch.setattr(f"sgd.graph.store.keys.{what}", lambda _: "another")
    assert started(CHAIN, tmp_path / "store")[1] == ["number abc", "double", "save"]


@pytest.mark.parametrize("damage", ["short", "flipped", "header", "text", "empty"])
def test_a_damaged_entry_is_computed_again(tmp_path: Path, started: Run, damage: str) -> None:
    first, _ = started(CHAIN, tmp_path / "store")
    for file in (tmp_path / "store").glob("*.safetensors"):
        data = file.read_bytes()
        made = {
            "short": data[:-9],
            "flipped": data[:200] + bytes([data[200] ^ 1]) + data[201:],
            "header": (1 << 62).to_bytes(8, "little") + data[8:],
            "text": (2).to_bytes(8, "little") + b"[]",
            "empty": b"",
        }
        file.write_bytes(made[damage])
    again, calls = started(CHAIN, tmp_path / "store")
    assert calls == ["number abc", "double", "save"]
    assert any("is damaged, and is computed again" in text for text in again.record["warnings"])
    assert (again.folder / "n.txt").read_bytes() == (first.folder / "n.txt").read_bytes()
    assert started(CHAIN, tmp_path / "store")[1] == ["save"]


def test_a_whole_entry_of_another_class_is_computed_again(tmp_path: Path, started: Run) -> None:
    store = MemoryStore()
    started(CHAIN, store)
    for entry in store.entries.values():
        entry.content["objects"][-1]["class"] = "subprocess:Popen"  # type: ignore[index]
    assert started(CHAIN, store)[1] == ["number abc", "double", "save"]


def test_a_result_that_takes_longer_to_write_than_to_make_is_not_kept(
    tmp_path: Path, started: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = itertools.cycle([0, 1, 1, 3])  # the call began, it ended; the write began, it ended
    monkeypatch.setattr(stored_steps, "perf_counter", clock.__next__)
    started(CHAIN, tmp_path / "store")
    assert not FolderStore(tmp_path / "store").listed()


def test_a_full_disk_ends_no_run(tmp_path: Path, started: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(entries.shutil, "disk_usage", lambda _: usage._replace(free=1))
    done, _ = started(CHAIN, tmp_path / "store")
    assert any("results are not stored" in text for text in done.record["warnings"])
    assert not list((tmp_path / "store").glob("*.safetensors"))


def test_the_least_recently_used_goes_first(tmp_path: Path, started: Run) -> None:
    store = FolderStore(tmp_path / "store")
    started(CHAIN, store)
    old, new = store.listed()
    os.utime(old.path, (5, 5))
    assert [each.key for each in store.prune(new.size)] == [old.key]
    assert [each.key for each in store.listed()] == [new.key]


def test_a_folder_in_which_others_write_is_no_store(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    with pytest.raises(NodeError, match="other users may write"):
        FolderStore(tmp_path / "open")


def test_nothing_else_lies_in_a_store(tmp_path: Path, started: Run) -> None:
    store = tmp_path / "store"
    FolderStore(store)
    with pytest.raises(NodeError, match="it lies in another one"):
        FolderStore(store / "other")
    with pytest.raises(NodeError, match="lies in a store"):
        started(CHAIN, None, out=store / "out")


def test_measurements_of_every_node_refuse_a_store(tmp_path: Path, started: Run) -> None:
    with pytest.raises(NodeError, match="reused"):
        started(CHAIN, tmp_path / "store", profile=Profiling(trace=tmp_path / "t.json"))


def test_limits_of_time_refuse_a_store(tmp_path: Path, started: Run) -> None:
    with pytest.raises(NodeError, match="reused"):
        started(CHAIN + "expect: {seconds: 5}\n", tmp_path / "store")
    assert started(CHAIN + "expect: {seconds: 5}\n", None)[1] == ["number abc", "double", "save"]


def test_the_command_lists_verifies_and_clears(tmp_path: Path, started: Run) -> None:
    started(CHAIN, tmp_path / "store")

    def sgd(*words: str) -> tuple[int, str]:
        command = [sys.executable, "-m", "sgd", "store", "--store", str(tmp_path / "store"), *words]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout + done.stderr

    code, text = sgd()
    assert (code, text.count("chain"), "slow.double" in text) == (0, 2, True)
    next((tmp_path / "store").glob("*.safetensors")).write_bytes(b"x")
    code, text = sgd("--verify")
    assert (code, "1 entry whole, 1 damaged" in text) == (1, True)
    assert sgd("--prune", "5")[0] == 2
    assert sgd("--clear")[0] == 0
    assert not list((tmp_path / "store").glob("*.safetensors"))


def test_a_loop_that_ran_in_part_has_the_time_of_what_ran() -> None:
    names = {"many": "loop", "many.loop": "loop", "many.loop.step": "slow.step", "many.split": "slow.split"}
    reused, ran, hoisted = Row(), Row(), Row()
    reused.reused, reused.saved_seconds = True, 4.0
    ran.calls, ran.seconds, ran.reused = 3, 0.5, True
    hoisted.reused, hoisted.saved_seconds = True, 1.0
    measured = {"many.loop": reused, "many.loop.step": ran, "many.split": hoisted}
    found = {row["name"]: row for row in node_rows(SimpleNamespace(names=names, calls=list), measured, 1.0)}  # type: ignore[arg-type]
    assert [found[name]["calls"] for name in names] == [3, 3, 3, 0]
    assert [found[name]["seconds"] for name in names] == [0.5, 0.5, 0.5, 0.0]
    assert [found[name].get("saved_seconds") for name in names] == [5.0, 4.0, None, 1.0]
    record = {"nodes": list(found.values()), "status": "done", "seconds": 1.0, "phases": {}, "peak_bytes": None}
    assert "making them took 5.00 s" in run_table(record)
