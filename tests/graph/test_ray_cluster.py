"""Jobs on a real Ray of CPU workers on this machine: one dies, one leaves, one joins; failures; an interrupt."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers import cluster_toys
from helpers.processes import of_session
from PIL import Image

pytestmark = pytest.mark.slow

ray = pytest.importorskip("ray", reason='Ray is not installed: pip install "sgd[ray]"')

TEXT = """\
sgd: 1
name: greys
inputs:
  levels: {type: "list[int]", default: [10, 20, 30, 40, 50, 60]}
  hold: {type: bool, default: false}
nodes:
  mix:
    for: {level: $levels}
    body: {grey: {uses: toy.grey, with: {level: $level, hold: $hold}}}
    yield: {level: $grey}
  save:
    for: {level: $mix}
    body: {file: {uses: toy.fill, with: {level: $level, path: "grey-${index}.png"}}}
    yield: {file: $file}
outputs: {files: $save}
"""
ONE = """\
sgd: 1
name: grey
inputs: {level: {type: int}}
nodes:
  grey: {uses: toy.grey, with: {level: $level}}
  file: {uses: toy.fill, with: {level: $grey, path: grey.png}}
outputs: {file: $file}
"""

Command = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def short() -> Iterator[Path]:
    """A folder for temporary files, with a path that is short enough for sockets."""
    with tempfile.TemporaryDirectory(prefix="t-", dir="/tmp") as folder:
        yield Path(folder)


@pytest.fixture(scope="module")
def marked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which calls leave marks."""
    return tmp_path_factory.mktemp("marks")


@pytest.fixture
def command(tmp_path: Path, short: Path, marked: Path) -> Iterator[Command]:
    """Start `sgd` in the folder of the workflows, in a session that hears Ctrl-C."""
    for mark in marked.iterdir():
        mark.unlink()
    (tmp_path / "greys.yaml").write_text(TEXT)
    (tmp_path / "grey.yaml").write_text(ONE)
    begun: list[subprocess.Popen[str]] = []
    settings = {"SGD_TOY_MARKS": str(marked), "TMPDIR": str(short)}

    def start(*words: str) -> subprocess.Popen[str]:
        line = ["env", "--default-signal=INT", sys.executable, "-m", "sgd", *words]
        line += ["--device", "cpu", "--library", os.path.relpath(cluster_toys.__file__, tmp_path)]
        made = subprocess.Popen(
            line,
            cwd=tmp_path,
            env=os.environ | settings,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        begun.append(made)
        return made

    yield start
    for process in begun:
        for number in of_session(process.pid):
            os.kill(number, signal.SIGKILL)
        process.wait()


def marks(marked: Path) -> list[tuple[int, int]]:
    """The level and the process of each call so far, in order of time."""
    found = [path.name.split("-") for path in marked.glob("*-*")]
    return [(int(level), int(pid)) for level, pid, _ in sorted(found, key=lambda each: int(each[2]))]


def until(what: Callable[[], object], process: subprocess.Popen[str]) -> None:
    """Wait until something is so."""
    end = time.monotonic() + 90
    while not what():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.05)


def greys(folder: Path) -> dict[str, int]:
    return {path.name: Image.open(path).getpixel((3, 3))[0] for path in folder.glob("*.png")}


def alive(pids: set[int]) -> set[int]:
    return {pid for pid in pids if Path(f"/proc/{pid}/cwd").exists()}


@pytest.fixture(scope="module")
def cluster(marked: Path) -> Iterator[Any]:
    """A cluster of two nodes with one worker each, which get the environment of this process."""
    from ray.cluster_utils import Cluster

    before = signal.getsignal(signal.SIGTERM)  # a node replaces it
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SGD_TOY_MARKS", str(marked))
        made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
        for _ in range(2):
            made.add_node(num_cpus=1)
        yield made
        made.shutdown()
    signal.signal(signal.SIGTERM, before)


def test_workers_that_die_leave_and_join(command: Command, cluster: Any, marked: Path, tmp_path: Path) -> None:
    def pids() -> set[int]:
        return {pid for _, pid in marks(marked)}

    process = command("exec", "greys.yaml", "hold=true", "--ray", "--ray-address", cluster.address, "--out", "out")
    until(lambda: len(pids()) == 2, process)  # each node has a worker, in the middle of a job
    os.kill(marks(marked)[0][1], signal.SIGKILL)
    cluster.add_node(num_cpus=1)
    until(lambda: len(pids()) == 4, process)  # and one in place of the killed one, and one on the new node
    cluster.remove_node(next(iter(cluster.worker_nodes)), allow_graceful=False)
    until(lambda: len(alive(pids())) == 2, process)
    staying = alive(pids())
    lost = [level for level, pid in marks(marked) if pid not in staying]
    (marked / "go").touch()
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert greys(tmp_path / "out") == {f"grey-{n}.png": level for n, level in enumerate(range(10, 70, 10))}
    assert not list((tmp_path / "out").glob(".sgd*"))
    # A lost job was begun again, and no other one.
    assert len(lost) == 2
    assert Counter(level for level, _ in marks(marked)) == Counter([*range(10, 70, 10), *lost])
    assert err.count("died or left; another one computes job") == 2
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert record["status"] == "done"
    assert record["outputs"]["files"] == [f"grey-{n}.png" for n in range(6)]
    assert [row["status"] for row in record["jobs"]] == ["done"] * 6
    assert sum(row["attempts"] for row in record["jobs"]) == 6 + 2
    assert sum(row["left"] for row in record["workers"]) == 2
    assert sum(row["jobs"] for row in record["workers"]) == 6


def test_failed_jobs_are_listed_and_the_rest_goes_on(
    command: Command, cluster: Any, marked: Path, tmp_path: Path
) -> None:
    levels = "levels=[10, 13, 99, 20]"
    process = command("exec", "greys.yaml", levels, "--ray", "--ray-address", cluster.address, "--out", "out")
    _, err = process.communicate(timeout=150)
    assert process.returncode == 1, err
    assert greys(tmp_path / "out") == {"grey-0.png": 10, "grey-3.png": 20}
    assert "error: job 1 failed: mix.grey (toy.grey) failed: RuntimeError: thirteen cannot be mixed" in err
    assert "error: job 2 failed: 3 workers died with it" in err
    assert "error: 2 of 4 jobs failed: 1, 2" in err
    assert Counter(level for level, _ in marks(marked)) == {10: 1, 13: 1, 99: 3, 20: 1}
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert [row["status"] for row in record["jobs"]] == ["done", "failed", "failed", "done"]


def test_an_interrupt_ends_a_local_cluster(command: Command, marked: Path, tmp_path: Path, short: Path) -> None:
    process = command("exec", "greys.yaml", "hold=true", "--ray", "--out", "out")
    until(lambda: len(marks(marked)) >= 1, process)
    began = time.monotonic()
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    _, err = process.communicate(timeout=30)
    assert process.returncode == 3, err
    assert time.monotonic() - began < 10
    assert err.splitlines()[-1].startswith("interrupted; files kept: none; record: out/run.json; run the same command")
    assert of_session(process.pid) == []
    assert not list(short.glob("sgd-*"))
    assert json.loads((tmp_path / "out" / "run.json").read_text())["status"] == "interrupted"


def test_a_sweep(command: Command, cluster: Any, tmp_path: Path) -> None:
    words = ("sweep", "grey.yaml", "--vary", "level=10,13,20", "--ray", "--ray-address", cluster.address)
    _, err = command(*words, "--out", "sweep").communicate(timeout=150)
    assert "error: run 2 (level=13) failed: grey (toy.grey) failed: RuntimeError: thirteen cannot be mixed" in err
    assert {name: greys(tmp_path / "sweep" / name) for name in ("001-level-10", "002-level-13", "003-level-20")} == {
        "001-level-10": {"grey.png": 10}, "002-level-13": {}, "003-level-20": {"grey.png": 20},
    }  # fmt: skip
    assert json.loads((tmp_path / "sweep" / "003-level-20" / "run.json").read_text())["status"] == "done"
    assert (tmp_path / "sweep" / "sweep.html").is_file()
    assert "1 of 3 runs failed" in err
