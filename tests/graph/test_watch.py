"""`sgd exec --watch` in a process of its own. The oracles: the words of the process, and the files that it writes."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import rank_toys
from sgd.graph.cli import watch, watched_files
from sgd.graph.cli.main import main

NODES = '''
import time
from pathlib import Path
from sgd.graph.contract.node import OutPath, Run, node


@node("w.read")
def read(path: Path, times: int = 1) -> str:
    """A text, after a while."""
    time.sleep(0.05)
    return path.read_text() * times


@node("w.save", effect=True)
def save(run: Run, text: str, path: OutPath, end: str = "") -> None:
    """Write a text."""
    run.output(path).write_text(text + end)
'''

PART = """sgd: 1
inputs: {path: {type: path}}
nodes: {one: {uses: w.read, with: {path: $path}}}
outputs: {text: $one}
"""

FLOW = """sgd: 1
name: w
nodes:
  part: {uses: ./part.yaml, with: {path: data.txt}}
  file: {uses: w.save, with: {text: $part, path: n.txt, end: "."}}
"""

SPLIT = """sgd: 1
run: {parallel: {ulysses: 2}}
nodes:
  start: {uses: toy.start, with: {value: 1.0}}
  together: {uses: toy.together, with: {number: $start, turn: 0}}
outputs: {number: $together}
"""

PATIENCE = 60.0


class Watched:
    """A process of `sgd exec --watch`, and its lines."""

    def __init__(self, folder: Path, *words: str) -> None:
        command = [sys.executable, "-m", "sgd", "exec", "w.yaml", "--watch", "--quiet", "--out", "out"]
        command += ["--library", "nodes.py", "--store", "store", *words]
        environment = {**os.environ, "XDG_CACHE_HOME": str(folder / "cache")}
        self.process = subprocess.Popen(
            command, cwd=folder, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True
        )
        self.lines: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.put(line.rstrip("\n"))

    def until(self, start: str) -> list[str]:
        """The lines up to one that begins so."""
        found: list[str] = []
        end = time.monotonic() + PATIENCE
        while not (found and found[-1].startswith(start)):
            try:
                found.append(self.lines.get(timeout=max(end - time.monotonic(), 0.1)))
            except queue.Empty:
                raise AssertionError("\n".join(found)) from None
        return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in {"nodes.py": NODES, "part.yaml": PART, "w.yaml": FLOW, "data.txt": "abc"}.items():
        (tmp_path / name).write_text(text)
    return tmp_path


@pytest.fixture
def watched(folder: Path) -> Iterator[Watched]:
    found = Watched(folder)
    yield found
    found.process.kill()
    found.process.wait()


def test_each_save_runs_again_and_says_what_changed(folder: Path, watched: Watched) -> None:
    assert "watching w.yaml: 4 files; Ctrl-C ends" in watched.until("watching")
    assert (folder / "out" / "n.txt").read_text() == "abc."

    (folder / "w.yaml").write_text(FLOW.replace('end: "."', 'end: "!"'))
    lines = watched.until("watching")
    assert {"changed: w.yaml", "~ file", "ran: file", "reused: part.one"} <= set(lines)
    assert (folder / "out" / "n.txt").read_text() == "abc!"

    (folder / "w.yaml").write_text(FLOW[:-7])  # half of a file
    lines = watched.until("watching")
    assert any(line.startswith("error[yaml-syntax]") for line in lines)
    assert not any(line.startswith("ran:") for line in lines)

    (folder / "part.yaml").write_text(PART.replace("$path}", "$path, times: 2}"))
    watched.until("changed: part.yaml")
    watched.until("watching")
    (folder / "new.yaml").write_text(FLOW)
    (folder / "new.yaml").replace(folder / "w.yaml")  # as an editor saves
    assert {"~ part.one", "ran: part.one, file"} <= set(watched.until("watching"))
    assert (folder / "out" / "n.txt").read_text() == "abcabc."

    (folder / "data.txt").write_text("x")
    assert {"changed: data.txt", "no node of the workflow has changed"} <= set(watched.until("watching"))
    assert (folder / "out" / "n.txt").read_text() == "xx."

    (folder / "nodes.py").write_text(NODES.replace("text + end", "end + text"))
    assert "changed: nodes.py" in watched.until("watching")
    assert (folder / "out" / "n.txt").read_text() == ".xx"

    os.kill(watched.process.pid, signal.SIGINT)
    assert watched.until("no longer") == ["no longer watching w.yaml"]
    assert watched.process.wait(PATIENCE) == 0


def test_the_first_run_replaces_no_file_of_another(folder: Path) -> None:
    (folder / "out").mkdir()
    (folder / "out" / "n.txt").write_text("mine")
    watched = Watched(folder)
    try:
        assert any("exists" in line for line in watched.until("watching"))
        (folder / "data.txt").write_text("y")
        watched.until("changed: data.txt")
        watched.until("watching")
        assert (folder / "out" / "n.txt").read_text() == "mine"
    finally:
        watched.process.kill()
        watched.process.wait()


def test_a_save_is_over_when_nothing_changes_any_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a"
    file.write_text("")
    before = watched_files.states([file])
    looks = 0

    def sleep(_: float) -> None:
        nonlocal looks
        looks += 1
        if looks <= 5:
            file.write_text("x" * looks)

    monkeypatch.setattr(watched_files.time, "sleep", sleep)
    assert watched_files.wait([file], before, lambda: False) == [file]
    assert looks == 6
    assert watched_files.wait([file], watched_files.states([file]), iter((False, True)).__next__) == []


def test_a_run_and_json_are_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    assert main(["exec", "w.yaml", "--watch", "--json", "--library", "nodes.py"]) == 2


@pytest.mark.parametrize(("words", "code"), [((), 2), (("--processes", "1"), 0)])
def test_a_watch_does_not_wait_with_a_file_for_several_processes(
    words: tuple[str, ...], code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ends at the first check, unless the command line asks for one process."""
    (tmp_path / "toys.yaml").write_text(SPLIT)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(watch, "wait", lambda *_: [])
    options = ["--library", rank_toys.__file__, "--device", "cpu", "--quiet", "--store", "off"]
    assert main(["exec", "toys.yaml", "--watch", *options, *words]) == code


def test_a_save_that_asks_for_several_processes_does_not_end_a_watch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file, saves = tmp_path / "toys.yaml", iter((SPLIT, SPLIT.replace("ulysses: 2", "ulysses: 1")))
    file.write_text(SPLIT.replace("ulysses: 2", "ulysses: 1"))

    def save(*_: object) -> list[Path]:
        text = next(saves, None)
        if text is None:
            return []
        file.write_text(text)
        return [file]

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(watch, "wait", save)
    options = ["--library", rank_toys.__file__, "--device", "cpu", "--quiet", "--store", "off"]
    assert main(["exec", "toys.yaml", "--watch", *options]) == 0
    told = capsys.readouterr().err
    assert told.count("a run in several processes cannot have --watch") == 1
    assert told.count("; Ctrl-C ends") == 3
