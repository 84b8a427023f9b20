"""`sgd resume` of runs in several processes: as many, more, fewer; after a kill, an interrupt, in a launcher."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from helpers import rank_toys
from helpers.processes import device_of

TEXT = """
sgd: 1
name: toys
inputs:
  fault: {enum: [none, raise, kill, hang]}
nodes:
  start: {uses: toy.start, with: {value: 1.0, rank: 1}}
  once: {uses: toy.once, with: {number: $start}}
  before: {uses: toy.shared, with: {number: $once, turn: 1}}
  loop:
    for: {turn: [0, 1, 2, 3, 4, 5]}
    carry: {state: $before}
    body:
      shared: {uses: toy.shared, with: {number: $state, turn: $turn}}
      together: {uses: toy.together, with: {number: $shared, turn: $turn, fault: $fault, at: 4}}
    yield: {state: $together}
  file: {uses: toy.write, with: {number: $loop, path: number.txt}}
outputs: {file: $file}
"""
ARGUMENTS = ["--library", rank_toys.__file__, "--quiet"]
SUMS = 1 + 0 + 1 + 3 + 6 + 10 + 15
"""The sum that `toy.shared` adds in all turns, on any number of ranks. `toy.together` adds the ranks' numbers too."""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "toys.yaml").write_text(TEXT)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def sgd(*words: str, launcher: tuple[str, ...] = (), code: int = 0, **variables: str) -> str:
    """Run a command; its stderr."""
    command = [sys.executable, *launcher, "-m", "sgd", *words, *ARGUMENTS]
    made = subprocess.run(command, env=os.environ | variables, capture_output=True, text=True, timeout=180)
    assert made.returncode == code, made.stdout + made.stderr
    return made.stderr


def begun(processes: int, fault: str, code: int = 1) -> str:
    """A run that ends in its fifth turn, when a snapshot is written."""
    words = [
        "exec",
        "toys.yaml",
        "--device",
        device_of(2),
        "--processes",
        str(processes),
        "--out",
        "out",
        f"fault={fault}",
    ]
    return sgd(*words, "--snapshot-every", "0", code=code, RANK_TOYS_AWAIT="out")


def mended() -> None:
    """The node fails no more."""
    os.environ["RANK_TOYS_MENDED"] = "1"


@pytest.fixture(autouse=True)
def faults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SGD_STORE", "off")
    monkeypatch.setenv("RANK_TOYS_MENDED", "")


def calls(record: dict[str, Any], name: str) -> tuple[int, int]:
    """Calls of the last process and of those before."""
    row = next(row for row in record["nodes"] if row["name"] == name)
    return row["calls"] or 0, row.get("resumed_calls", 0)


def number() -> float:
    return float(Path("out/number.txt").read_text().split()[0])


def test_a_killed_rank_and_a_resume(here: Path) -> None:
    told = begun(2, "kill")
    assert "rank 1 was killed by signal 9 (SIGKILL)" in told
    assert "go on with: sgd resume out --library" in told
    mended()
    told = sgd("resume", "out")
    assert len(re.findall("lacks the part of rank 1; the run goes on from an earlier place", told)) == 1
    record = json.loads(Path("out/run.json").read_text())
    turn = sum(1 for step in record["steps"] if step.get("resumed"))
    assert 0 <= turn <= 4
    assert calls(record, "loop.shared") == calls(record, "loop.together") == (6 - turn, turn)
    assert calls(record, "once") == calls(record, "before") == (0, 1)
    assert len(record["processes"]) == record["parallel"]["ulysses"] * record["parallel"]["branches"] == 2
    # One process alone has made 0.01 for its size; each turn adds the ranks 0 and 1.
    assert number() == 1.01 + SUMS + 6 * 1
    assert not Path("out/.resume").exists()


def resumed(processes: int, *words: str, launcher: tuple[str, ...] = (), turns: int = 4) -> None:
    """Go on, where the ranks of 2 processes had ended the first turns, with another number of processes."""
    mended()
    sgd("resume", "out", *words, launcher=launcher)
    record = json.loads(Path("out/run.json").read_text())
    assert calls(record, "loop.together") == (6 - turns, turns)
    assert len(record.get("processes", [0])) == processes
    added = sum(range(2)) * turns + sum(range(processes)) * (6 - turns)
    assert number() == 1.01 + SUMS + added


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder of a run of two processes that was interrupted in its fifth turn, and its message."""
    folder = tmp_path_factory.mktemp("ended")
    (folder / "toys.yaml").write_text(TEXT)
    words = [
        "exec",
        "toys.yaml",
        "--device",
        device_of(2),
        "--processes",
        "2",
        "--out",
        "out",
        "fault=hang",
        *ARGUMENTS,
    ]
    process = subprocess.Popen(
        ["env", "--default-signal=INT", sys.executable, "-m", "sgd", *words],
        env=os.environ | {"RANK_TOYS_FAULT_FILE": "failed", "SGD_STORE": "off"},
        cwd=folder,
        stderr=subprocess.PIPE,
        text=True,
    )
    until = time.monotonic() + 120
    while not (folder / "failed").exists() and process.poll() is None and time.monotonic() < until:
        time.sleep(0.05)
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=20)
    assert time.monotonic() - began < 5
    assert process.returncode == 3, told
    return folder / "out", told


@pytest.fixture
def interrupted(ended: tuple[Path, str], here: Path) -> str:
    """The run in the current folder; its message."""
    shutil.copytree(ended[0], here / "out")
    return ended[1]


@pytest.mark.slow
@pytest.mark.parametrize("words", [[], ["--processes", "3"], ["--processes", "1"]], ids=["2", "3", "1"])
def test_an_interrupt_writes_the_last_turn(interrupted: str, words: list[str]) -> None:
    """Without a snapshot before: the first is due after 30 seconds."""
    assert "go on with: sgd resume out" in interrupted
    count = int(words[-1]) if words else 2
    if device_of(2) != device_of(count):
        pytest.skip("this machine has fewer GPUs")
    resumed(count, *words)


@pytest.mark.slow
def test_a_launcher_goes_on(interrupted: str) -> None:
    assert "go on with: sgd resume out" in interrupted
    launcher = ("-m", "torch.distributed.run", "--nproc-per-node", "2")
    resumed(2, launcher=launcher)


@pytest.mark.slow
def test_rank_0_is_killed(here: Path) -> None:
    words = ["exec", "toys.yaml", "--device", device_of(2), "--processes", "2", "--out", "out", "fault=kill"]
    words += ["--snapshot-every", "0", "--set", "loop.together.on=0"]
    told = sgd(*words, code=1, RANK_TOYS_AWAIT="out")
    assert "rank 0 was killed by signal 9 (SIGKILL)" in told
    assert "go on with: sgd resume out --library" in told
    mended()
    sgd("resume", "out")
    assert number() == 1.01 + SUMS + 6


@pytest.mark.slow
def test_a_run_in_one_process_goes_on_in_two_and_a_changed_one_is_refused(here: Path) -> None:
    words = [
        "exec",
        "toys.yaml",
        "--device",
        device_of(2),
        "--out",
        "out",
        "fault=raise",
        "--set",
        "loop.together.on=0",
    ]
    sgd(*words, code=1)
    mended()
    assert "branches=2,ulysses=2 is for 4 processes, not for 2" in sgd(
        "resume", "out", "--processes", "2", "--parallel", "branches=2,ulysses=2", code=2
    )
    Path("toys.yaml").write_text(TEXT.replace("1.0", "2.0"))
    assert "cannot go on, since its result would be another" in sgd("resume", "out", "--processes", "2", code=2)
    assert not Path("out/ranks").exists()
    Path("toys.yaml").write_text(TEXT)
    sgd("resume", "out", "--processes", "2")
    assert number() == 1.01 + SUMS + 2 * 1
