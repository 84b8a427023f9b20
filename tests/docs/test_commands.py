"""Every command of the documentation parses, and runs if it needs neither a model hub nor a GPU."""

from __future__ import annotations

import argparse
import json
import re
import runpy
import shutil
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from helpers.doc_commands import ROOT, Command, File, needs, read
from jsonschema import Draft202012Validator
from sgd.graph.cli.main import main, parser

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
PARTS = {page.relative_to(ROOT).as_posix(): list(read(page.read_text(encoding="utf-8"))) for page in PAGES}
COMMANDS = {(page, part) for page, parts in PARTS.items() for part in parts if isinstance(part, Command)}
OURS = sorted({part for _, part in COMMANDS if part.words[0] == "sgd"}, key=str)
OTHERS = sorted({part for _, part in COMMANDS if part.words[0] != "sgd"}, key=str)
# The commands of this page belong to many files of one name; test_reference.py runs them.
RUN = [page for page in PARTS if page != "docs/reference/diagnostics.md"]
EXACT = ("check", "diff", "graph", "nodes", "init")
"""Commands whose output is the same in every run."""
HEAVY = ("exec", "plan", "calibrate")
APART = ("tune", "sweep", "resume", "clean")
"""Commands that only their own tests run: they make tens of clips, need a run that was interrupted, or remove files."""
RECORD = Draft202012Validator(json.loads((ROOT / "docs" / "run.schema.json").read_text(encoding="utf-8")))
DONE: set[File | Command] = set()
"""Commands that ran, and that read no file of a page: a second page need not run them again."""


def parsers() -> Mapping[str, argparse.ArgumentParser]:
    """The parser of each command, by its name."""
    actions = [action for action in parser()._actions if isinstance(action, argparse._SubParsersAction)]
    return actions[0].choices


@pytest.mark.parametrize("command", OURS, ids=str)
def test_a_command_parses(command: Command) -> None:
    words = list(command.words[1:])
    if command.is_name:
        of, options = (parser(), words) if words[0].startswith("-") else (parsers()[words[0]], words[1:])
        assert set(options) <= set(of._option_string_actions)
        return
    arguments, rest = parser().parse_known_args(words)
    # Values of inputs may stand behind options.
    assert [w for w in rest if not (hasattr(arguments, "values") and re.match(r"\w+=", w))] == []


@pytest.mark.parametrize("command", OTHERS, ids=str)
def test_the_files_of_another_command_exist(command: Command) -> None:
    words = command.words[:-1] if command.words[0] == "cp" else command.words
    paths = [w for w in words if re.match(r"\./docs|(tests|training|docs|workflows)/", w)]
    assert [p for p in paths if not (ROOT / p.split("::")[0]).exists()] == []
    if command.words[0] == "make":
        targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
        assert set(command.words[1:]) <= set(targets)


def runnable(page: str) -> list[File | Command]:
    """Files and commands of a page, without commands that cannot run here; each command once."""
    files = {part.name for part in PARTS[page] if isinstance(part, File)}
    found: list[File | Command] = []
    for part in PARTS[page]:
        if isinstance(part, File) or (part not in found and can_run(part, files)):
            found.append(part)
    return found


def can_run(command: Command, files: set[str]) -> bool:
    """A command of sgd that is complete and needs nothing special, a copy, or a script that the page shows."""
    program, *rest = command.words
    if program == "sgd":
        by_time = "--fail-over" in rest  # its result depends on what else the machine does
        return command.is_complete and needs(command) is None and rest[0] not in APART and not by_time
    return program == "cp" or (program == "python" and rest[0] in files)


def is_bundled(command: Command) -> bool:
    """The command works on a bundled workflow alone, and no other command reads its files."""
    bundled = {file.stem for file in (ROOT / "workflows").glob("*.yaml")}
    return command.words[2:3] != () and command.words[2] in bundled and "--out" not in command.words


def cases() -> Iterator[object]:
    for page in RUN:
        commands = [part for part in runnable(page) if isinstance(part, Command)]
        if commands:
            slow = any(command.words[1] in HEAVY for command in commands if command.words[0] == "sgd")
            yield pytest.param(page, marks=pytest.mark.slow if slow else (), id=page)


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with copies of `docs` and `workflows`, as the current folder."""
    before = signal.getsignal(signal.SIGTERM)
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    shutil.copytree(ROOT / "workflows", tmp_path / "workflows", ignore=shutil.ignore_patterns("models"))
    (tmp_path / "workflows" / "models").symlink_to(ROOT / "workflows" / "models")
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    signal.signal(signal.SIGTERM, before)


@pytest.mark.slow
@pytest.mark.parametrize("page", list(cases()))
def test_the_commands_of_a_page_run(page: str, clone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for part in runnable(page):
        if part in DONE:
            continue
        if isinstance(part, File):
            Path(part.name).write_text(part.text, encoding="utf-8")
        elif part.words[0] == "python":
            runpy.run_path(part.words[1])
        elif part.words[0] == "cp":
            shutil.copy(part.words[1], part.words[2])
        else:
            capsys.readouterr()
            code = main(list(part.words[1:]))
            said = capsys.readouterr()
            shown = part.output or ""
            assert (code == 0) == (not re.search(r"^error\b", shown, re.MULTILINE)), (str(part), said.err)
            if is_bundled(part):
                DONE.add(part)
            if shown and part.words[1] in EXACT:
                assert shown == (said.out + said.err).rstrip(), str(part)
    for file in clone.rglob("run.json"):
        record = json.loads(file.read_text(encoding="utf-8"))
        RECORD.validate(record)
        assert set(record) <= set(RECORD.schema["properties"])


def test_commands_are_found() -> None:
    assert len(OURS) > 20
    assert {command.words[1] for command in OURS} >= set(parsers())


def test_a_page_is_read_in_order() -> None:
    text = (
        "Try `sgd check FILE`.\n\n```yaml a.yaml\nsgd: 1\n```\n\n"
        "```console\n$ sgd check a.yaml\nerror: x\n  y\n$ sgd nodes\n```\n\n"
        "- item\n\n  ```sh\n  cd x && .venv/bin/sgd exec a.yaml --out b  # a note\n  ```\n"
    )
    assert list(read(text)) == [
        Command(("sgd", "check", "FILE"), inline=True),
        File("a.yaml", "sgd: 1\n"),
        Command(("sgd", "check", "a.yaml"), output="error: x\n  y"),
        Command(("sgd", "nodes")),
        Command(("cd", "x")),
        Command(("sgd", "exec", "a.yaml", "--out", "b")),
    ]
    assert [part.output for part in read(text) if isinstance(part, Command)][1] == "error: x\n  y"


@pytest.mark.parametrize(
    ("words", "missing"),
    [
        ("sgd exec wan2_1_t2v prompt=x", "hub"),
        ("sgd exec quickstart --device cuda", "GPU"),
        ("sgd exec many_prompts --overlap-device cuda:1", "GPU"),
        ("sgd exec quickstart", None),
        ("sgd plan wan2_1_t2v prompt=x", None),
    ],
)
def test_commands_that_need_a_hub_or_a_gpu_are_known(words: str, missing: str | None) -> None:
    assert needs(Command(tuple(words.split()))) == missing
