"""Options of profiles: what fits together, what the record and the table say, and which ranges a run pushes."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import sgd
from helpers.machines import call, graph, loop, plan_of
from jsonschema import Draft202012Validator
from sgd.graph.cli.main import main
from sgd.graph.compiler.ir import Graph, Var
from sgd.graph.contract.errors import NodeError
from sgd.graph.contract.events import Observer
from sgd.graph.contract.node import Run
from sgd.graph.runtime import profiling
from sgd.graph.runtime.context import Context
from sgd.graph.runtime.observers.chosen_calls import ChosenCalls, Steps
from sgd.graph.runtime.observers.nvtx_ranges import NvtxRanges
from sgd.graph.runtime.profiling import Profiling
from sgd.graph.runtime.run import run

SCHEMA = Draft202012Validator(json.loads((Path(__file__).parents[2] / "docs" / "run.schema.json").read_text()))
TOYS = Path(__file__).parents[1] / "helpers" / "toys.py"
LOOP = """sgd: 1
nodes:
  n: {uses: toy.number}
  end: {uses: toy.ticks, with: {count: 4}}
  loop:
    for: {tick: $end}
    carry: {state: $n}
    body:
      next: {uses: toy.step, with: {tick: $tick, thing: $state}}
    yield: {state: $next}
  kept: {uses: toy.save, with: {thing: $loop}}
outputs: {o: $kept}
"""


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run `sgd exec` with options; the exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    Path("w.yaml").write_text(LOOP)

    def execute(*words: str) -> tuple[int, str, str]:
        code = main(["exec", "w.yaml", "--library", str(TOYS), "--device", "cpu", "--out", "out", *words])
        said = capsys.readouterr()
        return code, said.out, said.err

    return execute


def small() -> Graph:
    body = graph(call("l.x", "m.add", a=Var("l", "c"), b="$two"), c="$l.x")
    return graph(
        call("two", "m.const", value=2),
        call("ns", "m.cells", count=3),
        loop("l", {"n": "$ns"}, body, c="$two"),
        call("s", "m.save", a="$l:c"),
        out="$s:value",
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--profile-nodes", "n"), "--profile-nodes"),
        (("--profile-steps", "0:3"), "--profile-steps"),
        (("--profile", "off", "--profile-steps", "0:3"), "--profile-steps"),
        (("--profile", "torch", "--profile-steps", "3:0"), "chooses no step"),
        (("--profile", "torch", "--profile-steps", "all"), "is not a range of steps"),
        (("--profile", "torch", "--profile-nodes", "lop.*"), "chooses no node of this workflow"),
        (("--profile", "torch", "--profile-nodes", ""), "chooses no node of this workflow"),
        (("--profile", "nvtx"), "needs an NVIDIA GPU"),
        (("--trace", "t", "--trace-values", "./t"), "name one file"),
        (("--trace", "w.yaml"), "w.yaml exists"),
        (("--trace", "no/t"), "cannot be written"),
    ],
)
def test_options_that_cannot_work_are_errors_before_the_run(command: Any, words: Any, message: str) -> None:
    code, out, err = command(*words)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert message in err
    assert "\n = help: " in err
    assert not Path("out").exists()


def test_a_wrong_name_of_a_node_gets_a_suggestion(command: Any) -> None:
    assert "did you mean `loop.next`?" in command("--profile", "torch", "--profile-nodes", "loop.nxt")[2]


def test_off_measures_nothing_and_says_so(command: Any) -> None:
    code, out, _ = command("--profile", "off")
    assert code == 0
    assert "nodes were not measured (--profile off)" in out
    assert "seconds" not in out
    assert not re.search(r"\d\.\d{5}|^\(other\)", out, re.M), "times outside nodes"
    record = json.loads(Path("out/run.json").read_text())
    SCHEMA.validate(record)
    assert record["options"]["profile"] == "off"
    nodes = [row for row in record["nodes"] if row["type"]]
    assert {row["name"]: row["calls"] for row in nodes} == {
        "n": 1, "end": 1, "loop": 4, "loop.next": 4, "kept": 1,
    }  # fmt: skip
    for row in nodes:
        assert [row[key] for key in ("seconds", "device_seconds", "share", "peak_bytes")] == [None] * 4
    assert record["peak_bytes"] is None
    assert record["seconds"] > 0
    assert record["nodes"][0]["outputs"] == [{"port": "thing", "type": "Thing", "value": 0.0}]


def test_the_default_leaves_the_options_out(command: Any) -> None:
    assert command("--quiet")[0] == 0
    record = json.loads(Path("out/run.json").read_text())
    assert "profile" not in record["options"]
    assert "kernels" not in record


def test_off_of_a_run_that_fails(tmp_path: Path) -> None:
    given = graph(call("one", "m.const", value=1), call("f", "m.fail", a="$one", at=1), out="$f")
    done = run(plan_of(given), out=tmp_path, profile="off")
    SCHEMA.validate(json.loads((tmp_path / "run.json").read_text()))
    assert [(row["name"], row["calls"], row["seconds"]) for row in done.record["nodes"] if row["type"]] == [
        ("one", 1, None),
        ("f", 1, None),
    ]


def test_python_takes_a_name_or_a_profiling(tmp_path: Path) -> None:
    assert sgd.Profiling is Profiling
    with pytest.raises(NodeError, match="no profile 'tourch'") as wrong:
        sgd.run(plan_of(small()), out=tmp_path, profile="tourch")
    assert wrong.value.help == "did you mean `torch`?"
    with pytest.raises(NodeError) as wrong:
        sgd.run(plan_of(small()), out=tmp_path, profile="nvtx")
    assert wrong.value.diagnostic.code == "unavailable"
    assert list(tmp_path.iterdir()) == []


class Double:
    """Receives ranges, and checks that they nest."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.open: list[str] = []

    def push(self, name: str) -> None:
        assert isinstance(name, str)
        self.open.append(name)
        self.log.append(f"{'  ' * (len(self.open) - 1)}{name}")

    def pop(self) -> None:
        self.open.pop()

    def start(self) -> None:
        self.log.append("start")

    def stop(self) -> None:
        self.log.append("stop")


def pushed(given: Graph, folder: Path, monkeypatch: pytest.MonkeyPatch, **options: Any) -> tuple[Double, Any]:
    double = Double()
    monkeypatch.setattr(profiling, "TorchRanges", lambda: double)
    monkeypatch.setattr(Profiling, "require_possible", lambda *_: None)  # the device is a CPU
    return double, run(plan_of(given), out=folder, profile=Profiling("nvtx", **options))


def test_ranges_nest_and_the_capture_takes_whole_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    double, done = pushed(small(), tmp_path, monkeypatch, steps="1")
    assert done.status == "done"
    assert double.open == []
    inside = double.log.index("l 1")
    assert double.log[inside - 1 : inside + 3] == ["start", "l 1", "  l.x (m.add)", "stop"]
    assert double.log.count("start") == double.log.count("stop") == 3  # before the loop, step 1, after the loop
    assert "l 0" not in double.log


def test_the_pattern_chooses_ranges_of_calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    double, _ = pushed(small(), tmp_path, monkeypatch, nodes="s")
    assert double.log == ["l 0", "l 1", "l 2", "start", "s (m.save)", "stop"]


def test_an_error_leaves_no_range_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    body = graph(call("l.f", "m.fail", a=Var("l", "n"), at=1), c="$l.f")
    given = graph(call("ns", "m.cells", count=3), loop("l", {"n": "$ns"}, body), out="$l:c")
    double, done = pushed(given, tmp_path, monkeypatch)
    assert done.status == "failed"
    assert double.open == []
    assert double.log[-1] == "stop"


def test_ranges_inside_a_call(tmp_path: Path) -> None:
    double = Double()
    ranges = NvtxRanges(ChosenCalls("a", Steps.of("0:9")), double)
    for name in ("a", "b"):
        node: Any = call(name, "m.const", value=1)
        ranges.begin(node)
        ranges.range_started(node, "branch", "positive")
        ranges.range_started(node, "block", "blocks.0")
        ranges.range_finished(node, "block", "blocks.0")
        ranges.range_finished(node, "branch", "positive")
        ranges.node_finished(node, 0.0, {})
    assert double.log == ["start", "a (m.const)", "  branch positive", "    block blocks.0", "stop"]
    assert double.open == []


def test_a_range_costs_nothing_if_nobody_listens(tmp_path: Path) -> None:
    context = Context(tmp_path, Observer())
    assert not context.ranges
    assert not Run().ranges
    for nobody in (context, Run()):
        with nobody.range("block", "x"):
            pass
    assert context.range("block", "x") is not context.range("block", "y")  # nothing is kept between calls


def test_ranges_reach_observers_of_python(tmp_path: Path) -> None:
    log: list[str] = []

    class Hears(Observer):
        def range_started(self, call: Any, kind: str, name: str) -> None:
            log.append(f"{kind} {name}")

        def range_finished(self, call: Any, kind: str, name: str) -> None:
            log.append(f"/{name}")

    from sgd.graph.contract.events import Observers

    context = Context(tmp_path, Observers([Hears()]))
    assert context.ranges
    with pytest.raises(ZeroDivisionError), context.range("branch", "a"), context.range("block", "b"):
        1 / 0  # noqa: B018
    assert log == ["branch a", "block b", "/b", "/a"]
