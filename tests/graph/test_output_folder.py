"""An output folder belongs to one run: the lock, temporary files, and what a killed run leaves."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from helpers import machines
from helpers.machines import Cell, call, graph, plan_of
from sgd.graph.compiler.plan import Plan
from sgd.graph.contract.errors import NodeError
from sgd.graph.contract.node import Run as NodeRun
from sgd.graph.runtime.run import run

NODES = '''
import sys, time
from sgd.graph.contract.node import OutPath, Run, node

@node("slow.save", effect=True)
def save(run: Run, wait: float = 0.0, size: int = 4, path: OutPath = "kept.txt", kind: str = "temporary") -> str:
    """Writes a file through a temporary one, the second half after a while."""
    target = run.output(path)
    half = run.temporary(target) if kind == "temporary" else target
    with half.open("w") as file:
        file.write("x" * size)
        file.flush()
        if wait:
            print("asleep", file=sys.stderr, flush=True)
            time.sleep(wait)
        file.write("whole")
    if kind == "temporary":
        half.replace(target)
    return str(target)
'''
FLOW = """
sgd: 1
name: w
inputs: {wait: {type: float, default: 30}, kind: {type: str, default: temporary}}
nodes:
  kept: {uses: slow.save, with: {path: deep/first.txt}}
  slow: {uses: slow.save, with: {path: deep/second.txt, wait: $wait, kind: $kind}}
outputs: {x: $slow}
"""


def started(folder: Path, *more: str, out: str = "out", limit: int | None = None) -> subprocess.Popen[str]:
    (folder / "slow_nodes.py").write_text(NODES)
    (folder / "w.yaml").write_text(FLOW)
    words = [sys.executable, "-m", "sgd", "exec", "w.yaml", "--library", "slow_nodes.py", "--out", out, *more]

    def prepare() -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        if limit is not None:
            import resource

            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(words, cwd=folder, text=True, preexec_fn=prepare, **pipes)  # noqa: PLW1509 - it starts no thread


def asleep(process: subprocess.Popen[str]) -> None:
    assert process.stderr is not None
    before = ""
    while "asleep" not in before:
        line = process.stderr.readline()
        assert line, before
        before += line


def tree(folder: Path) -> list[str]:
    """The files in a folder, without snapshots for `sgd resume`."""
    files = [path.relative_to(folder) for path in folder.rglob("*") if not path.is_dir()]
    return sorted(str(path) for path in files if path.parts[0] != ".resume")


def test_a_second_process_is_refused_and_told_who_has_the_folder(tmp_path: Path) -> None:
    first = started(tmp_path)
    asleep(first)
    before = tree(tmp_path / "out")
    began = time.perf_counter()
    out, err = started(tmp_path, "wait=0", "--overwrite").communicate(timeout=60)
    assert time.perf_counter() - began < 20
    second = started(tmp_path, "wait=0")
    out, err = second.communicate(timeout=60)
    assert (second.returncode, out) == (2, "")
    found = re.search(r"out belongs to a run that is under way \(pid (\d+), started (\S+ \S+): (.*)\)", err)
    assert found, err
    assert int(found[1]) == first.pid
    assert time.time() - time.mktime(time.strptime(found[2], "%Y-%m-%d %H:%M:%S")) < 120
    assert found[3].endswith("exec w.yaml --library slow_nodes.py --out out")
    assert tree(tmp_path / "out") == before
    first.send_signal(signal.SIGTERM)
    first.communicate(timeout=20)
    assert tree(tmp_path / "out") == ["deep/first.txt", "run.json"]


def test_another_path_to_the_folder_is_the_same_folder(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("out")
    first = started(tmp_path)
    asleep(first)
    second = started(tmp_path, "wait=0", "--overwrite", out="link")
    _, err = second.communicate(timeout=60)
    first.kill()
    first.communicate()
    assert second.returncode == 2, err
    assert f"pid {first.pid}" in err


def test_of_runs_that_begin_together_one_has_the_folder_and_is_whole(tmp_path: Path) -> None:
    runs = [started(tmp_path, "wait=0.5", "--overwrite") for _ in range(3)]
    ends = [(process.communicate(timeout=60)[1], process.returncode) for process in runs]
    assert {code for _, code in ends} <= {0, 2}
    assert [code for _, code in ends].count(0) >= 1
    assert tree(tmp_path / "out") == ["deep/first.txt", "deep/second.txt", "run.json"]
    assert json.loads((tmp_path / "out/run.json").read_text())["status"] == "done"
    assert (tmp_path / "out/deep/second.txt").read_text() == "xxxxwhole"


def test_a_killed_run_leaves_the_folder_to_the_next_which_says_so(tmp_path: Path) -> None:
    first = started(tmp_path)
    asleep(first)
    first.kill()
    first.communicate()
    left = [name for name in tree(tmp_path / "out") if name.endswith(".part")]
    assert len(left) == 1
    strangers = ["deep/.sgd-strange.part", "deep/.second.txt.part", "run.json.tmp", f".sgd-{'0' * 32}.part"]
    for name in strangers:
        (tmp_path / "out" / name).write_text("mine")
    second = started(tmp_path, "wait=0", "--overwrite")
    _, err = second.communicate(timeout=60)
    assert second.returncode == 0, err
    told = f"warning: an earlier run was killed here (pid {first.pid}, started "
    assert told in err
    assert "it left no record; finished files: deep/first.txt; temporary files removed: 1" in err
    assert tree(tmp_path / "out") == sorted([*strangers, "deep/first.txt", "deep/second.txt", "run.json"])
    assert any(told[9:] in warning for warning in json.loads((tmp_path / "out/run.json").read_text())["warnings"])


def test_without_overwrite_the_error_says_that_a_run_was_killed(tmp_path: Path) -> None:
    first = started(tmp_path, "kind=direct")
    asleep(first)
    first.kill()
    first.communicate()
    second = started(tmp_path, "wait=0")
    _, err = second.communicate(timeout=60)
    assert second.returncode == 2
    assert "deep/first.txt exists; an earlier run was killed here (pid" in err
    assert "finished files: deep/first.txt; perhaps unfinished: deep/second.txt" in err
    assert "--overwrite" in err


def test_a_journal_removes_nothing_but_temporary_files_inside_the_folder(tmp_path: Path) -> None:
    name = f".sgd-{'a' * 32}.part"
    inside, outside = tmp_path / "out", tmp_path / "elsewhere"
    for folder in (inside, outside):
        folder.mkdir()
        (folder / name).write_text("")
    (inside / "cell.dat").write_text("")
    (inside / "sub").symlink_to(outside)
    (inside / f".sgd-{'b' * 32}.part").symlink_to(outside / name)
    listed = [f"../elsewhere/{name}", str(outside / name), f"sub/{name}", "cell.dat", f".sgd-{'b' * 32}.part", name]
    lines = [{"sgd journal": 1, "pid": 1}, *({"temporary": path} for path in listed)]
    (inside / ".sgd.journal").write_text("".join(json.dumps(line) + "\n" for line in lines))
    result = run(saved(), out=inside)
    assert result.status == "done"
    assert "temporary files removed: 1" in result.record["warnings"][0]
    assert sorted(p.name for p in inside.iterdir()) == sorted(
        ["cell.dat", "cell.txt", "run.json", "sub", f".sgd-{'b' * 32}.part"]
    )
    assert [p.name for p in outside.iterdir()] == [name]


@pytest.mark.parametrize("text", ["my notes\n", "[1, 2]\n", '{"sgd journal": 99}\n', None])
def test_a_file_of_the_journals_name_that_is_none_is_kept(tmp_path: Path, text: str | None) -> None:
    journal = tmp_path / ".sgd.journal"
    if text is None:
        journal.symlink_to(tmp_path / "elsewhere")
    else:
        journal.write_text(text)
    with pytest.raises(NodeError, match="is not a journal of this version of sgd"):
        run(saved(), out=tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == [".sgd.journal"]


@pytest.mark.parametrize("text", ["", '{"sgd jour', '{"sgd journal": 1, "pid": 7}\n{"tempo'])
def test_a_journal_that_was_cut_off_is_of_a_killed_run(tmp_path: Path, text: str) -> None:
    (tmp_path / ".sgd.journal").write_text(text)
    result = run(saved(), out=tmp_path)
    assert result.status == "done"
    assert "an earlier run was killed here" in result.record["warnings"][0]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cell.txt", "run.json"]


def saved(path: str = "cell.txt") -> Plan:
    return plan_of(graph(call("a", "m.const", value=3), call("s", "m.save", a="$a", path=path), out="$s:value"))


def test_a_temporary_file_is_new_and_no_link_is_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flags: list[int] = []
    opened = os.open

    def watched(path: Any, flag: int, *rest: Any, **more: Any) -> int:
        if str(path).endswith(".part"):
            flags.append(flag)
        return opened(path, flag, *rest, **more)

    names: list[str] = []

    def save(a: Cell, run: NodeRun, path: Path) -> Path:
        target = run.output(path)
        made = run.temporary(target)
        names.append(made.name)
        assert made.parent == target.parent
        assert made.read_bytes() == b""
        made.write_text("3")
        made.replace(target)
        return target

    monkeypatch.setattr(os, "open", watched)
    monkeypatch.setitem(machines.TYPES, "m.save", replace(machines.TYPES["m.save"], function=save))
    for _ in range(2):
        assert run(saved(), out=tmp_path, overwrite=True).status == "done"
    assert len(set(names)) == 2
    assert all(re.fullmatch(r"\.sgd-[0-9a-f]{32}\.part", name) for name in names)
    assert len(flags) == 4  # an output and a record of each run
    assert all(flag & os.O_EXCL and flag & os.O_NOFOLLOW for flag in flags)


def test_the_folder_is_free_again_after_each_kind_of_end(tmp_path: Path) -> None:
    assert run(saved(), out=tmp_path).status == "done"
    with pytest.raises(NodeError, match=r"run\.json exists"):
        run(saved(), out=tmp_path)
    failing = plan_of(graph(call("a", "m.const", value=3), call("f", "m.fail", a="$a", at=3), out="$f"))
    assert run(failing, out=tmp_path, overwrite=True).status == "failed"
    assert run(saved(), out=tmp_path, overwrite=True).status == "done"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cell.txt", "run.json"]


def test_a_thread_of_the_same_process_is_refused_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inside, go_on = threading.Event(), threading.Event()

    def slow(value: int) -> Cell:
        inside.set()
        assert go_on.wait(20)
        return Cell(value)

    monkeypatch.setitem(machines.TYPES, "m.const", replace(machines.TYPES["m.const"], function=slow))
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(run(saved(), out=tmp_path)))
    thread.start()
    assert inside.wait(20)
    with pytest.raises(NodeError, match=f"under way \\(pid {os.getpid()}"):
        run(saved(), out=tmp_path, overwrite=True)
    go_on.set()
    thread.join()
    assert results[0].status == "done"


def test_runs_without_a_folder_that_begin_in_one_second_get_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    results: list[Any] = []
    threads = [threading.Thread(target=lambda: results.append(run(saved()))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [result.status for result in results] == ["done"] * 6
    assert len({result.folder for result in results}) == 6


@pytest.mark.parametrize("flag", ["--overwrite", "--quiet"])
def test_a_full_disk_is_named_and_what_there_is(tmp_path: Path, flag: str) -> None:
    """A limit on the size of files stands in for a disk: writing beyond it fails likewise."""
    process = started(tmp_path, "wait=0", "--set", "slow.size=100000", flag, limit=40_000)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "Traceback" not in err
    assert "slow (slow.save) failed: OSError: [Errno 27] File too large" in err
    assert "kept: " in err
    assert tree(tmp_path / "out") == ["deep/first.txt", "run.json"]
    process = started(tmp_path, "wait=0", flag, out="other", limit=1_000)  # the record is larger
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "other/run.json cannot be written: File too large" in err
    assert "deep/first.txt, " in err
    assert tree(tmp_path / "other") == ["deep/first.txt", "deep/second.txt"]


def test_a_folder_where_nothing_can_be_written_is_named(tmp_path: Path) -> None:
    process = started(tmp_path, out="/proc/self/here")
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "error: cannot write to /proc/self/here: No such file or directory" in err


def test_a_value_that_cannot_describe_itself_does_not_cost_the_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Odd:
        def __str__(self) -> str:
            raise RuntimeError("no idea")

    monkeypatch.setitem(machines.TYPES, "m.save", replace(machines.TYPES["m.save"], function=lambda **_: Odd()))
    result = run(saved(), out=tmp_path)
    record = json.loads((tmp_path / "run.json").read_text())
    assert (result.status, record["status"], record["outputs"]) == ("done", "done", {})
    assert "no idea" in record["warnings"][0]
