"""The pages of docs/reference agree with the code, and their test can fail."""

from __future__ import annotations

import argparse
import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import yaml
from sgd.graph.cli.main import main, parser
from sgd.graph.language.registry import standard

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "docs" / "reference"
EXAMPLES = yaml.safe_load((REFERENCE / "diagnostics.yaml").read_text(encoding="utf-8"))
CODES = {file.name.split(".")[0] for file in (ROOT / "tests" / "graph" / "fixtures").glob("*.yaml")}


@pytest.fixture
def generate() -> ModuleType:
    """The script docs/generate.py as a module."""
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_pages_are_up_to_date() -> None:
    done = subprocess.run([sys.executable, "docs/generate.py", "--check"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_page_that_differs_is_found(generate: ModuleType, tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.setattr(generate, "REFERENCE", tmp_path)
    assert generate.run(check=False) == 0
    assert generate.run(check=True) == 0
    page = tmp_path / "diagnostics.md"
    page.write_text(page.read_text(encoding="utf-8").replace("did you mean", "did you want"), encoding="utf-8")
    assert generate.run(check=True) == 1
    assert "out of date: diagnostics.md;" in capsys.readouterr().err


def test_every_node_type_and_command_has_a_section() -> None:
    nodes = re.findall(r"^## (.+)$", (REFERENCE / "nodes.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert nodes == sorted(standard().nodes)
    commands = re.findall(r"^## sgd (.+)$", (REFERENCE / "commands.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert commands
    assert commands == re.findall(r"^    (\w+)(?:  |$)", parser().format_help(), re.MULTILINE)


def test_every_argument_has_help() -> None:
    groups = parser()._subparsers._group_actions  # type: ignore[union-attr]
    choices: dict[str, argparse.ArgumentParser] = groups[0].choices  # type: ignore[assignment]
    assert len(choices) >= 9
    lacking = [(name, action.dest) for name, each in choices.items() for action in each._actions if not action.help]
    assert lacking == []


def test_every_code_has_an_example() -> None:
    assert set(EXAMPLES) == CODES


@pytest.mark.parametrize("code", EXAMPLES)
def test_a_wrong_file_has_the_code_and_no_other(code: str, generate: ModuleType) -> None:
    example = EXAMPLES[code]
    said = generate.printed(example.get("command", "sgd check mine.yaml"), example["wrong"])
    assert set(re.findall(r"^\w+\[([\w-]+)\]", said, re.MULTILINE)) == {code}


@pytest.mark.parametrize("code", EXAMPLES)
def test_a_right_file_has_no_problem(code: str, tmp_path: Path, monkeypatch, capsys) -> None:
    example = EXAMPLES[code]
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text(example.get("right", example["wrong"]), encoding="utf-8")
    words = example.get("right command", "sgd check mine.yaml").split()[1:]
    # The graph after the first pass is all that is asked of a plan here: what follows needs torch.
    assert main([*words, "--after", "fold"] if words[0] == "plan" else words) == 0
    assert capsys.readouterr().err == ""


def test_the_record_page_has_every_required_field() -> None:
    schema = json.loads((ROOT / "docs" / "run.schema.json").read_text(encoding="utf-8"))
    fields = set(re.findall(r"^\| `([^`]+)`", (REFERENCE / "record.md").read_text(encoding="utf-8"), re.MULTILINE))
    for name in ("nodes", "steps", "gates", "gate_totals"):
        assert {f"{name}[].{field}" for field in schema["properties"][name]["items"]["required"]} <= fields
    assert set(schema["required"]) <= fields
