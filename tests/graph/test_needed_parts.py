"""`check_parts` hears of the parts that a run brings into memory, and of no others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from helpers import toys
from helpers.toys import Box
from sgd.graph.compiler.compile import check
from sgd.graph.contract.diagnostics import Diagnostic
from sgd.graph.contract.facts import NodeFacts
from sgd.graph.contract.node import node

HEARD: list[tuple[str | None, frozenset[str], Mapping[str, Any]]] = []


@dataclass(frozen=True, kw_only=True)
class CrateFacts(NodeFacts):
    name: str | None = None


def check_crate(facts: CrateFacts, parts: frozenset[str], options: Mapping[str, Any]) -> Iterator[Diagnostic]:
    HEARD.append((facts.name, parts, options))
    if facts.name == "broken" and not options.get("empty"):
        yield Diagnostic("bad-value", f"no {', '.join(sorted(parts))}", "name")


@node("crate.make", check_parts=check_crate)
def make(name: str = "crate") -> Box:
    """A box with parts.

    Args:
        name: Its name.
    """
    return Box(name)


@pytest.fixture(scope="module")
def library():
    found = toys.library()
    module = ModuleType("crates")
    make.node.function.__module__ = "crates"
    module.make = make  # type: ignore[attr-defined]
    found.add("crates", module)
    return found


@pytest.fixture
def problems(tmp_path: Path, library):
    """Check a workflow of nodes, and return its problems and the calls of `check_crate`."""

    def run(nodes: str, options: Mapping[str, Any] | None = None):
        HEARD.clear()
        (tmp_path / "w.yaml").write_text(f"sgd: 1\nnodes:\n{nodes}\noutputs: {{o: $o}}\n")
        return check(tmp_path / "w.yaml", library=library, options=options).diagnostics, list(HEARD)

    return run


BROKEN = "  b: {uses: crate.make, with: {name: broken}}\n"


def test_the_parts_that_a_node_reads(problems) -> None:
    found, heard = problems(BROKEN + "  o: {uses: toy.open, with: {box: $b}}", {})
    assert heard == [("broken", frozenset({"lid"}), {})]
    assert [(d.code, d.message, d.span.line) for d in found] == [("bad-value", "no lid", 3)]


def test_parts_that_are_read_through_other_nodes(problems) -> None:
    _, heard = problems(
        BROKEN
        + "  w: {uses: toy.wrap, with: {box: $b}}\n  x: {uses: toy.open, with: {box: $b}}\n"
        + "  o: {uses: toy.empty, with: {box: $w, deep: true}}",
        {},
    )
    assert heard == [("broken", frozenset({"lid", "floor"}), {})]


def test_a_node_that_does_not_run_is_not_asked(problems) -> None:
    found, heard = problems(BROKEN + "  x: {uses: toy.open, with: {box: $b}}\n  o: {uses: toy.number}", {})
    assert heard == []
    assert all(d.severity == "warning" for d in found)


def test_nothing_is_asked_where_nothing_runs_or_something_is_wrong(problems) -> None:
    text = BROKEN + "  o: {uses: toy.open, with: {box: $b}}"
    assert problems(text, None) == ([], [])
    found, heard = problems(text + "\n  bad: {uses: toy.plain, with: {whole: x}}", {})
    assert heard == []
    assert found


def test_options_of_the_run_are_passed_on(problems) -> None:
    found, heard = problems(BROKEN + "  o: {uses: toy.open, with: {box: $b}}", {"empty": True})
    assert found == []
    assert heard == [("broken", frozenset({"lid"}), {"empty": True})]
