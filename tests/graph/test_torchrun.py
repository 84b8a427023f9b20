"""Ranks that another launcher has started, such as torchrun: errors, commands, devices. Most need no launcher."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from sgd.graph.cli.sweep.sweep_file import MARK, SWEEP, VERSION


def in_rank(folder: Path, rank: int, *words: str, local: int = 0) -> subprocess.CompletedProcess[str]:
    """Run a command as one of four ranks of a launcher."""
    place = {"RANK": str(rank), "WORLD_SIZE": "4", "LOCAL_RANK": str(local), "TORCHELASTIC_RUN_ID": "here"}
    return subprocess.run(
        [sys.executable, "-m", "sgd", *words],
        cwd=folder,
        env=os.environ | place,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("command", ["exec", "resume"])
def test_a_rank_that_fails_before_it_has_joined_tells_why(tmp_path: Path, command: str) -> None:
    done = in_rank(tmp_path, 1, command, "nowhere.yaml", local=1)
    assert done.returncode == 2
    lines = done.stderr.splitlines()
    assert lines[0].startswith("rank 1: error"), done.stderr
    assert "nowhere.yaml" in lines[0]
    assert all(line.startswith("rank 1: ") for line in lines)
    assert done.stdout == ""


@pytest.mark.parametrize("words", [["sweep", "quickstart", "--vary", "seed=0,1"], ["check", "quickstart"]])
def test_commands_that_run_in_one_process_are_refused(tmp_path: Path, words: list[str]) -> None:
    done = in_rank(tmp_path, 0, *words)
    assert done.returncode == 2
    message = f"error: sgd {words[0]} runs in one process, and the launcher started 4"
    assert done.stderr == f"{message}\n = help: leave out torchrun\n"
    assert list(tmp_path.iterdir()) == []


def test_a_sweep_goes_on_in_one_process(tmp_path: Path) -> None:
    (tmp_path / "many").mkdir()
    (tmp_path / "many" / SWEEP).write_text(json.dumps({MARK: VERSION}))
    done = in_rank(tmp_path, 0, "resume", "many")
    assert done.returncode == 2
    assert done.stderr.startswith("error: sgd resume of a sweep runs in one process, and the launcher started 4\n")
