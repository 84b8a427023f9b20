"""The runs of one command of a node library: what they share, and what each computes. The oracle: calls by number."""

from __future__ import annotations

import itertools
from argparse import Namespace
from pathlib import Path

import pytest
from sgd.graph.cli.partial_run import CommandWorkflow
from sgd.graph.contract.events import Observer
from sgd.graph.runtime import stored_steps
from sgd.graph.runtime.session import session

NODES = '''
from dataclasses import dataclass
from pathlib import Path
from sgd.graph.contract.node import Run, node
from sgd.graph.contract.ports import Port

LOG = Path(__file__).with_name("calls.txt")


def called(name):
    with LOG.open("a") as file:
        file.write(name + " ")


@dataclass(frozen=True)
class Number(Port):
    value: float


@node("slow.encode")
def encode(text: str) -> Number:
    """A number."""
    called(text)
    return Number(len(text))


@node("slow.turn")
def turn(run: Run, a: Number) -> Number:
    """One more, or as many more as the command asks for."""
    called("turn")
    return Number(a.value + run.options.get("more", 1))


@node("slow.show")
def show(a: Number) -> Number:
    """The same number."""
    called(f"show={a.value:g}")
    return a
'''
FILE = """sgd: 1
name: shared
inputs: {text: {type: str, default: abc}}
nodes:
  one: {uses: slow.encode, with: {text: $text}}
  loop:
    for: {n: [0, 1]}
    carry: {state: $one}
    body: {next: {uses: slow.turn, with: {a: $state}}}
    yield: {state: $next}
  last: {uses: slow.show, with: {a: $loop}}
outputs: {last: $last}
"""


@pytest.fixture
def workflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CommandWorkflow:
    (tmp_path / "slow_nodes.py").write_text(NODES)
    (tmp_path / "w.yaml").write_text(FILE)
    monkeypatch.setattr(stored_steps, "perf_counter", itertools.count().__next__)  # each call and each write takes 1 s
    given = {"library": [str(tmp_path / "slow_nodes.py")], "file": str(tmp_path / "w.yaml"), "device": "cpu"}
    return CommandWorkflow(Namespace(**given, values=[], set=[], command="weigh"))


def calls(tmp_path: Path) -> list[str]:
    log = tmp_path / "calls.txt"
    found = log.read_text().split()
    log.unlink()
    return found


def test_what_comes_before_loops_is_made_once_and_the_rest_each_time(tmp_path: Path, workflow: CommandWorkflow) -> None:
    with session():
        for more, first in ((1, ["abc"]), (5, [])):
            part = workflow.part({"slow.show"}, {})
            assert part is not None
            part.run(Observer(), {"more": more}, unfinished="")
            assert calls(tmp_path) == [*first, "turn", "turn", f"show={3 + 2 * more}"]
        other = workflow.part({"slow.show"}, {"text": "ab"})
        assert other is not None
        other.run(Observer(), {}, unfinished="")
        assert calls(tmp_path) == ["ab", "turn", "turn", "show=4"]


def test_calls_that_the_command_asked_for_are_made_each_time(tmp_path: Path, workflow: CommandWorkflow) -> None:
    part = workflow.part({"slow.encode"}, {})
    assert part is not None
    for _ in range(2):
        part.run(Observer(), {}, unfinished="")
        assert calls(tmp_path) == ["abc"]
