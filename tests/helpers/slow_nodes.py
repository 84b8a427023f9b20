"""Nodes that note their calls, workflows of them, and a way to run these with a store."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sgd.graph.compiler.compile import compile
from sgd.graph.language.registry import Library
from sgd.graph.runtime import stored_steps
from sgd.graph.runtime.run import Result, run
from sgd.graph.store import fingerprints

NODES = '''
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated
from sgd.graph.contract.node import OutPath, Run, node
from sgd.graph.contract.ports import Port

CALLS = []


@dataclass(frozen=True)
class Number(Port):
    value: float


@node("slow.number")
def number(run: Run, text: str = "a", seed: int = 0) -> Number:
    """A number."""
    CALLS.append(f"number {text}")
    run.warn("it is slow")
    run.detail(chosen="tiles")
    return Number(len(text) + seed)


@node("slow.read")
def read(path: Path) -> Number:
    """The size of a file."""
    CALLS.append("read")
    return Number(path.stat().st_size)


@node("slow.double")
def double(a: Number) -> Number:
    """Twice a number."""
    CALLS.append("double")
    return Number(2 * a.value)


@node("slow.decide")
def decide(run: Run, a: Number) -> Number:
    """A number, with the events of a gate."""
    CALLS.append("decide")
    run.event("gate", computed=True)
    run.event("gate_total", computed=3, reused=2)
    return a


@node("slow.save", effect=True)
def save(run: Run, a: Number, path: OutPath, mark: str = "") -> None:
    """Write a number."""
    CALLS.append("save")
    run.output(path).write_text(f"{a.value} {mark}")
'''

CHAIN = """
sgd: 1
name: chain
inputs: {text: {type: str, default: abc}}
nodes:
  one: {uses: slow.number, with: {text: $text}}
  two: {uses: slow.double, with: {a: $one}}
  file: {uses: slow.save, with: {a: $two, path: n.txt}}
"""

LOOP = """
sgd: 1
name: many
inputs: {texts: {type: "list[str]", default: [a, bb]}}
nodes:
  encode:
    for: {text: $texts}
    body: {one: {uses: slow.number, with: {text: $text}}}
    yield: {one: $one}
  save:
    for: {one: $encode}
    body:
      two: {uses: slow.double, with: {a: $one}}
      file: {uses: slow.save, with: {a: $two, path: "n-${index}.txt"}}
    yield: {two: $two}
"""


def library_in(folder: Path) -> Library:
    """The nodes, from a file in a folder."""
    source = folder / "slow_nodes.py"
    source.write_text(NODES)
    library = Library()
    library.add_file(source)
    return library


Run = Callable[..., tuple[Result, list[str]]]


@pytest.fixture
def started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Compile and run a workflow; the result and the calls of nodes."""
    library = library_in(tmp_path)
    calls = library.nodes["slow.double"].function.__globals__["CALLS"]
    count = 0

    def start(text: str, store: Any, values: Any = None, set: Any = None, **more: Any) -> tuple[Result, list[str]]:
        nonlocal count
        count += 1
        file = tmp_path / "w.yaml"
        file.write_text(text)
        calls.clear()
        plan = compile(file, values, set, library)
        done = run(plan, **{"out": tmp_path / f"out{count}", "store": store, **more})
        assert done.status == "done", done.error
        return done, list(calls)

    fingerprints._code.cache_clear()
    monkeypatch.setattr(stored_steps, "perf_counter", itertools.count().__next__)  # each call and each write takes 1 s
    return start
