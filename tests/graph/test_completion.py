"""`sgd completion`: the words that it offers, and its scripts in real shells."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from sgd.graph.cli.candidates import FILES, candidates
from sgd.graph.cli.main import COMMANDS, parser
from sgd.graph.contract.workflow_folders import bundled_workflows

BUNDLED = {file.stem for file in bundled_workflows().glob("*.yaml")}


def offered(*words: str) -> list[str]:
    return [each.text for each in candidates(words, parser())]


def test_commands_are_offered_first() -> None:
    assert set(offered("")) == {*COMMANDS, "calibrate", "tune", "--help", "--version"}
    assert offered("ex") == ["exec"]


def test_a_workflow_is_a_bundled_name_or_a_file() -> None:
    assert set(offered("exec", "")) == {*BUNDLED, FILES}
    assert set(offered("init", "wan2_2")) == {name for name in BUNDLED if name.startswith("wan2_2")} | {FILES}


def test_inputs_are_offered_once() -> None:
    assert offered("exec", "quickstart", "") == ["prompt=", "steps=", "scale=", "seed=", "cache="]
    assert offered("exec", "quickstart", "steps=3", "s") == ["scale=", "seed="]
    assert offered("exec", "quickstart", "--quiet", "--device", "cpu", "pr") == ["prompt="]


def test_options_and_their_values_are_those_of_the_parser() -> None:
    assert "--weights" in offered("exec", "quickstart", "--")
    assert "--weights" not in offered("graph", "quickstart", "--")
    assert offered("graph", "quickstart", "--format", "") == ["text", "mermaid", "dot", "html"]
    assert offered("completion", "") == ["bash", "zsh", "fish"]
    assert offered("plan", "quickstart", "--after", "h") == ["hoist"]


def test_parameters_without_an_edge_are_offered_through_files_and_loops() -> None:
    paths = offered("exec", "quickstart", "--set", "")
    assert {"schedule.scheduler=", "denoise.loop.split.guider=", "video.fps="} <= set(paths)
    assert not {"denoise.loop.split.conditioning=", "text.prompt=", "schedule.steps="} & set(paths)
    assert "denoise.loop.split.guider=apg" in offered("exec", "quickstart", "--set", "denoise.loop.split.guider=a")
    assert offered("exec", "quickstart", "--set", "denoise.loop.split.batched=") == [
        "denoise.loop.split.batched=auto",
        "denoise.loop.split.batched=true",
        "denoise.loop.split.batched=false",
    ]


def test_node_types_are_offered_with_those_of_a_library_file() -> None:
    assert "text.encode" in offered("nodes", "text")
    toys = str(Path(__file__).parents[1] / "helpers" / "toys.py")
    assert "toy.number" in offered("nodes", "--library", toys, "toy")
    assert offered("nodes", "toy") == []


@pytest.mark.parametrize("words", [("exec", "absent.yaml", ""), ("exec", "absent.yaml", "--set", ""), ("x", "y", "z")])
def test_a_wrong_line_has_no_completions(words: tuple[str, ...]) -> None:
    assert offered(*words) == []


LINES = {
    "sgd ex": "exec",
    "sgd exec quickstart ste": "steps=",
    "sgd exec quickstart --set denoise.loop.split.guider=ap": "apg",
}
BASH = 'COMP_LINE="$1" COMP_POINT=${#1}; _sgd; echo "${COMPREPLY[*]}"'


@pytest.mark.parametrize("line", LINES)
@pytest.mark.parametrize("shell", ["bash", "fish"])
def test_a_script_completes_in_a_real_shell(shell: str, line: str, tmp_path: Path) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    (tmp_path / "sgd").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m sgd.graph.cli.main "$@"\n')
    (tmp_path / "sgd").chmod(0o755)
    script = subprocess.run([tmp_path / "sgd", "completion", shell], capture_output=True, text=True, check=True).stdout
    file = tmp_path / "script"
    file.write_text(script + (BASH if shell == "bash" else "complete -C $argv[1]"))
    path = f"{tmp_path}:{os.environ['PATH']}"
    done = subprocess.run([shell, file, line], capture_output=True, text=True, env={**os.environ, "PATH": path})
    assert done.stderr == ""
    words = [text.split("\t")[0] for text in done.stdout.splitlines()]
    assert [word.rpartition("guider=")[2] for word in words] == [LINES[line]]
