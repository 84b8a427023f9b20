"""`sgd plan --after PASS`: the graph as it is after one pass."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

LIBRARY = """
from sgd.nodes import node


@node("t.number")
def number(value: int) -> int:
    return value


@node("t.add")
def add(left: int, right: int) -> int:
    return left + right
"""
FILE = """
sgd: 1
nodes:
  first: {uses: t.number, with: {value: 1}}
  twin: {uses: t.number, with: {value: 1}}
  unused: {uses: t.number, with: {value: 2}}
  loop:
    for: {turn: [1, 2]}
    carry: {sum: $first}
    body:
      same: {uses: t.add, with: {left: $twin, right: 3}}
      next: {uses: t.add, with: {left: $sum, right: $same}}
    yield: {sum: $next}
outputs: {sum: $loop}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "t.py").write_text(LIBRARY)
    (tmp_path / "w.yaml").write_text(FILE)
    return tmp_path


def after(folder: Path, name: str, *more: str) -> subprocess.CompletedProcess[str]:
    code = (
        "import sys; from sgd.graph.cli.main import main; code = main(sys.argv[1:]);"
        "assert 'torch' not in sys.modules; sys.exit(code)"
    )
    words = [sys.executable, "-c", code, "plan", "w.yaml", "--library", "t.py", "--after", name, *more]
    return subprocess.run(words, cwd=folder, capture_output=True, text=True)


def test_each_pass_keeps_its_guarantee(folder: Path) -> None:
    texts = {name: after(folder, name) for name in ("fold", "prune", "parts", "hoist", "merge", "order")}
    assert {done.returncode for done in texts.values()} == {0}
    shown = {name: done.stdout for name, done in texts.items()}
    assert "unused: t.number" in shown["fold"]
    assert "unused" not in shown["prune"]
    assert "\n  loop.same: t.add" in shown["parts"]
    assert "\nloop.same: t.add" in shown["hoist"]
    assert "twin" in shown["hoist"]
    assert "twin" not in shown["merge"]
    lines = shown["order"].splitlines()
    assert lines.index("first: t.number") < next(n for n, line in enumerate(lines) if line.startswith("loop.same"))


def test_the_graph_as_data(folder: Path) -> None:
    before, found = (json.loads(after(folder, name, "--json").stdout) for name in ("prune", "merge"))
    first = next(item for item in found["items"] if item["id"] == "first")
    assert first["names"] == ["first", "twin"]
    assert first["wanted"] == {"value": ["*"]}
    assert all(item["wanted"] is None for item in before["items"] if item["type"] != "loop")
    loop = next(item for item in found["items"] if item["type"] == "loop")
    assert [item["id"] for item in loop["items"]] == ["loop.next"]
    assert found["outputs"] == {"sum": ["loop.sum"]}


def test_an_unknown_name_lists_the_passes(folder: Path) -> None:
    done = after(folder, "xyz")
    assert done.returncode == 2
    assert done.stderr == (
        "error: --after xyz: there is no such pass\n"
        " = help: passes, in order: fold, prune, parts, hoist, merge, order\n"
    )
