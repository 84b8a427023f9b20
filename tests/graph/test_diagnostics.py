"""Every diagnostic, as text and as JSON, against files that were read by a person.

A fixture is `fixtures/<code>.<case>.yaml`; its first line may give the command line (`# sgd: seed=1 --set a.b=2`,
`--complete` asks for every input). After a change of a message write the expected output anew with

    SGD_UPDATE_GOLDEN=1 pytest tests/graph/test_diagnostics.py

and read the difference.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import re
import shlex
from pathlib import Path

import pytest
from helpers import toys
from sgd.graph.compiler.compile import Checked, check
from sgd.graph.contract.diagnostics import render
from sgd.graph.language.literals import Given

FIXTURES = Path(__file__).parent / "fixtures"
CASES = sorted(p.stem for p in FIXTURES.glob("*.yaml"))
CODES = [
    "yaml-syntax",
    "duplicate-key",
    "unknown-key",
    "missing-key",
    "unknown-node-type",
    "unknown-reference",
    "unknown-parameter",
    "missing-parameter",
    "bad-value",
    "type-mismatch",
    "cycle",
    "yield-mismatch",
    "shadowed-name",
    "unknown-input",
    "missing-input",
    "wired-parameter",
    "unused-node",
    "version",
    "composite-not-found",
    "composite-recursion",
    "unavailable",
    "unsupported",
    "foreign-file",
]
FIELDS = ["code", "severity", "message", "file", "line", "column", "end_line", "end_column", "related", "help"]


@functools.cache
def checked(case: str) -> Checked:
    """Check a fixture with the command line of its first line; the current folder must be that of the fixtures."""
    first = (FIXTURES / f"{case}.yaml").read_text().split("\n", 1)[0]
    parser = argparse.ArgumentParser()
    parser.add_argument("values", nargs="*")
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--complete", action="store_true")
    words = parser.parse_intermixed_args(
        shlex.split(first.removeprefix("# sgd:")) if first.startswith("# sgd:") else []
    )
    inputs, settings = (
        {name: Given(value, True, FIXTURES) for name, value in (pair.split("=", 1) for pair in pairs)}
        for pairs in (words.values, words.set)
    )
    return check(f"{case}.yaml", inputs, settings, toys.library(), words.complete)


@pytest.fixture(params=CASES)
def case(request, monkeypatch):
    monkeypatch.chdir(FIXTURES)
    return request.param


def test_output_is_as_expected(case):
    found = checked(case)
    text = render(found.diagnostics, found.sources) + "\n"
    data = json.dumps([d.json() for d in found.diagnostics], indent=1, ensure_ascii=False) + "\n"
    for suffix, output in ((".txt", text), (".json", data)):
        golden = FIXTURES / f"{case}{suffix}"
        if os.environ.get("SGD_UPDATE_GOLDEN") == "1":
            golden.write_text(output)
        assert golden.is_file(), f"no {golden.name}: run with SGD_UPDATE_GOLDEN=1, and read it"
        assert output == golden.read_text(), f"{golden.name} differs"


def test_fixture_shows_its_code(case):
    code = case.split(".")[0]
    found = [d for d in checked(case).diagnostics if d.code == code]
    assert found
    assert {d.severity for d in found} == {"warning" if code == "unused-node" else "error"} | {
        d.severity for d in found if d.code == "bad-value"
    }


def test_places_are_real(case):
    """Every place lies in its file, and nothing is said twice of one place."""
    found = checked(case)
    seen = set()
    for diagnostic in found.diagnostics:
        for span in [diagnostic.span, *(r.span for r in diagnostic.related)]:
            if span is None or diagnostic.code == "foreign-file":  # the text of such a file is not shown
                continue
            lines = found.sources[span.file].lines
            assert 1 <= span.line <= span.end_line <= len(lines)
            assert 1 <= span.column <= len(lines[span.line - 1]) + 1
            assert (span.line, span.column) <= (span.end_line, span.end_column)
        assert (diagnostic.code, diagnostic.message, diagnostic.span) not in seen
        seen.add((diagnostic.code, diagnostic.message, diagnostic.span))


def test_messages_are_for_people(case):
    for diagnostic in checked(case).diagnostics:
        listed = (diagnostic.help or "x").split("\n") if diagnostic.code == "foreign-file" else [diagnostic.help or "x"]
        for text in (diagnostic.message, *listed):
            assert text == text.strip()
            assert text
            assert "\n" not in text
            assert not re.search(r"<[\w.]+ object|Traceback|pydantic|ValueError|None\b", text), text


def test_json_has_the_fields_of_the_contract(case):
    for diagnostic in checked(case).diagnostics:
        data = json.loads(json.dumps(diagnostic.json()))
        assert list(data) == FIELDS
        for related in data["related"]:
            assert list(related) == ["message", "file", "line", "column", "end_line", "end_column"]


def test_every_code_has_a_fixture():
    assert {case.split(".")[0] for case in CASES} == set(CODES)


def test_every_golden_file_has_a_fixture():
    left = {p.stem for p in FIXTURES.iterdir() if p.suffix in (".txt", ".json")} - set(CASES)
    assert not left


def test_root_file_comes_first_and_lines_ascend(case):
    files: list[str] = []
    places = [d.span for d in checked(case).diagnostics if d.span is not None]
    for span in places:
        if span.file not in files:
            files.append(span.file)
    assert [s.file for s in places] == sorted((s.file for s in places), key=files.index)
    for file in files:
        lines = [(s.line, s.column) for s in places if s.file == file]
        assert lines == sorted(lines)
    if f"{case}.yaml" in files:
        assert files[0] == f"{case}.yaml"
