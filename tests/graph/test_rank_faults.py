"""Faults of ranks: the run ends soon, with one message, and no process is left."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import pytest
from helpers import rank_toys
from helpers.processes import device_of, started_by

pytestmark = pytest.mark.slow

TEXT = """
sgd: 1
name: toys
inputs:
  fault: {enum: [none, raise, memory, exit, kill, stop, hang, drift]}
  on: {type: int, default: 1}
nodes:
  start: {uses: toy.start, with: {value: 1.0}}
  loop:
    for: {turn: [0, 1, 2, 3]}
    carry: {state: $start}
    body:
      together: {uses: toy.together, with: {number: $state, turn: $turn, fault: $fault, on: $on}}
    yield: {state: $together}
  file: {uses: toy.write, with: {number: $loop, path: number.txt}}
outputs: {file: $file}
"""


SLOW = """
sgd: 1
name: toys
inputs:
  fault: {enum: [none]}
  on: {type: int}
nodes:
  start: {uses: toy.start, with: {value: 1.0}}
  loop:
    for: {turn: [0, 1]}
    body:
      together: {uses: toy.together, with: {number: $start, turn: $turn, fault: $fault, on: $on}}
      slow: {uses: toy.wait, with: {number: $together, seconds: 4.5}}
    yield: {slow: $slow}
outputs: {slow: $loop}
"""


class Start(Protocol):
    """Starts a run with a fault on a rank, by `--processes` or by torchrun."""

    def __call__(self, fault: str, on: int = 1, torchrun: bool = False) -> subprocess.Popen[str]: ...


@pytest.fixture
def command(tmp_path: Path) -> Iterator[Start]:
    """Start a run in two processes with a fault, in a session that hears Ctrl-C."""
    (tmp_path / "toys.yaml").write_text(TEXT)
    begun: list[subprocess.Popen[str]] = []

    def start(fault: str, on: int = 1, torchrun: bool = False) -> subprocess.Popen[str]:
        launcher = ["-m", "torch.distributed.run", "--nproc-per-node", "2"] if torchrun else []
        words = [sys.executable, *launcher, "-m", "sgd", "exec", "toys.yaml", "--library", rank_toys.__file__]
        words += [] if torchrun else ["--processes", "2"]
        words += ["--device", device_of(2), "--out", "out", f"fault={fault}", f"on={on}"]
        begun.append(
            subprocess.Popen(
                ["env", "--default-signal=INT", *words],
                cwd=tmp_path,
                env=os.environ | {"SGD_STALL_SECONDS": "3", "RANK_TOYS_FAULT_FILE": str(tmp_path / "failed")},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
        )
        return begun[-1]

    yield start
    for process in begun:
        for rank in [*started_by(process.pid), process.pid]:
            try:
                os.kill(rank, signal.SIGKILL)
            except ProcessLookupError:
                continue
        process.wait()


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    """Wait until a file is there."""
    until = time.monotonic() + 120
    while not path.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("fault", "code", "message", "seconds"),
    [
        ("raise", 1, r"rank 1: loop.together \(toy.together\) failed: ValueError: a toy broke\n --> toys.yaml:", 10),
        ("memory", 4, r"rank 1: loop.together \(toy.together\) failed: MemoryError: a toy is too large", 10),
        ("kill", 1, r"rank 1 was killed by signal 9 \(SIGKILL\) in loop.together", 10),
        ("hang", 1, r"rank 1 does not go on: no progress for \d+ s in loop.together \(toy.together\) \(turn 3/4", 13),
    ],
)
def test_a_fault_of_a_rank_ends_the_run(
    command: Start, tmp_path: Path, fault: str, code: int, message: str, seconds: float
) -> None:
    process = command(fault)
    out, err = process.communicate(timeout=200)
    took = time.time() - float((tmp_path / "failed").read_text())
    assert process.returncode == code, err
    warned = ["rank 1: loop.together: a toy is loose"] if fault in ("raise", "hang") else []
    assert re.match("".join(f"warning: {text}\n" for text in warned) + f"error: {message}", err), err
    assert err.count("error: ") == 1
    assert out == ""
    assert took < seconds
    assert started_by(process.pid) == []
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert record["status"] == "failed"
    assert "rank 1" in record["error"]
    assert record["warnings"] == warned
    assert [row["rank"] for row in record["processes"]] == [0, 1]
    assert not (tmp_path / "out" / "number.txt").exists()
    log = (tmp_path / "out" / "ranks" / "1.log").read_text()
    if fault == "raise":
        assert "ValueError: a toy broke" in log
    if fault == "hang":
        assert re.match(f"warning: loop.together: a toy is loose\nerror: {message}", log), log


@pytest.mark.parametrize("torchrun", [False, True])
def test_a_stall_of_rank_0_ends_the_run_with_a_record(command: Start, tmp_path: Path, torchrun: bool) -> None:
    process = command("hang", on=0, torchrun=torchrun)
    _, err = process.communicate(timeout=200)
    assert process.returncode == 1
    message = r"rank 0 does not go on: no progress for \d+ s in loop.together \(toy.together\) \(turn 3/4 of loop\)"
    assert len(re.findall(f"^error: {message}$", err, re.MULTILINE)) == 1, err
    assert f"go on with: sgd resume out --library {rank_toys.__file__}\n" in err
    if not torchrun:  # the launcher prints a traceback of its own
        assert "Traceback" not in err
        assert err.count("error: ") == 1
    assert "AssertionError" not in err
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert record["status"] == "failed"
    assert re.match(message, record["error"])
    assert [row["rank"] for row in record["processes"]] == [0, 1]
    assert not list((tmp_path / "out").glob(".sgd.*"))


def test_a_rank_that_is_killed_under_torchrun_is_named(command: Start, tmp_path: Path) -> None:
    """The launcher ends rank 0 by a signal then, which is no interrupt of the user."""
    process = command("kill", torchrun=True)
    _, err = process.communicate(timeout=200)
    message = r"rank 1 ended without a word in loop.together \(toy.together\) \(turn 3/4 of loop\)"
    assert len(re.findall(f"^error: {message}$", err, re.MULTILINE)) == 1, err
    assert "interrupted" not in err
    assert f"go on with: sgd resume out --library {rank_toys.__file__}\n" in err
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert record["status"] == "failed"
    assert re.match(message, record["error"])


def test_a_signal_to_torchrun_is_an_interrupt(command: Start, tmp_path: Path) -> None:
    process = command("hang", torchrun=True)
    wait_for(tmp_path / "failed", process)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=30)
    kept = "files kept: none; record: out/run.json"
    assert f"interrupted; {kept}; go on with: sgd resume out --library {rank_toys.__file__}\n" in err
    assert "without a word" not in err
    assert json.loads((tmp_path / "out" / "run.json").read_text())["status"] == "interrupted"


def test_a_slow_node_of_rank_0_alone_is_no_stall(command: Start, tmp_path: Path) -> None:
    """Rank 1 waits in the next turn for longer than the limit in nodes."""
    (tmp_path / "toys.yaml").write_text(SLOW)
    process = command("none")
    _, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    assert json.loads((tmp_path / "out" / "run.json").read_text())["status"] == "done"


def test_an_interrupt_ends_all_ranks(command: Start, tmp_path: Path) -> None:
    process = command("hang")
    wait_for(tmp_path / "failed", process)
    assert len(started_by(process.pid)) == 2
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert process.returncode == 3
    assert time.monotonic() - began < 5
    kept = "files kept: none; record: out/run.json"
    warned = "warning: rank 1: loop.together: a toy is loose"
    assert err == f"{warned}\ninterrupted; {kept}; go on with: sgd resume out --library {rank_toys.__file__}\n"
    assert out == ""
    assert started_by(process.pid) == []
    assert json.loads((tmp_path / "out" / "run.json").read_text())["status"] == "interrupted"


def test_ranks_end_with_the_process_that_started_them(command: Start, tmp_path: Path) -> None:
    process = command("hang")
    wait_for(tmp_path / "failed", process)
    process.kill()
    _, err = process.communicate(timeout=20)
    until = time.monotonic() + 10
    while started_by(process.pid) and time.monotonic() < until:
        time.sleep(0.05)
    assert started_by(process.pid) == []
    assert "error: the process that started the ranks has gone, so the run ends\n" in err


def test_ranks_import_nothing_from_the_folder_of_a_workflow(tmp_path: Path) -> None:
    """A folder from somebody else may hold any Python file. `--` may stand before the workflow."""
    (tmp_path / "toys.yaml").write_text(TEXT)
    (tmp_path / "queue.py").write_text("raise SystemExit('a file of the current folder')")
    words = [sys.executable, "-P", "-m", "sgd", "exec", "--library", rank_toys.__file__, "--device", "cpu"]
    done = subprocess.run(
        [*words, "--processes", "2", "--quiet", "--", "toys.yaml", "fault=none", "on=1"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.rglob("number.txt"))) == 1
