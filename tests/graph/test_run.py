"""run(): output folder, record, interrupts. The command is run as a process where signals or streams matter."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from helpers import machines
from helpers.machines import Cell, arg, call, graph, loop, plan_of
from jsonschema import Draft202012Validator
from sgd.graph.compiler.ir import Const, Format, Graph, Index, Var
from sgd.graph.contract.errors import DoesNotFit, NodeError
from sgd.graph.contract.events import CallInfo, Observer
from sgd.graph.contract.node import Run as NodeRun
from sgd.graph.contract.node_library import NodeLibrary
from sgd.graph.runtime.clock import Clock
from sgd.graph.runtime.failure import NodeFailed, does_not_fit
from sgd.graph.runtime.prepared_folder import default_folder
from sgd.graph.runtime.run import run

SCHEMA = Draft202012Validator(json.loads((Path(__file__).parents[2] / "docs" / "run.schema.json").read_text()))


def record_in(folder: Path) -> dict[str, Any]:
    """The record of a folder, which is as the schema says and whose phases sum up."""
    record = json.loads((folder / "run.json").read_text())
    SCHEMA.validate(record)
    assert sum(record["phases"].values()) == pytest.approx(record["seconds"], abs=1e-6)
    return record


def saving(path: Any = "cell.txt", **more: Any) -> Graph:
    return graph(call("a", "m.const", value=3), call("s", "m.save", a="$a", path=path), out="$s:value", **more)


def test_a_run_leaves_its_record_and_its_files(tmp_path: Path) -> None:
    result = run(plan_of(saving("deep/er/cell.txt")), out=tmp_path / "out")
    record = record_in(tmp_path / "out")
    assert (result.status, result.stuck, result.error) == ("done", False, None)
    assert result.outputs == {"out": (tmp_path / "out/deep/er/cell.txt").resolve()}
    assert record["outputs"] == {"out": "deep/er/cell.txt"}
    assert result.record == record
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["deep", "run.json"]
    assert threading.active_count() < 20


def test_a_failed_run_leaves_its_record_and_finished_files(tmp_path: Path) -> None:
    given = replace(saving(), outputs={"f": arg("$f"), "s": arg("$s:value")})
    given = replace(given, items={**given.items, "f": call("f", "m.fail", a="$a", at=3)})
    result = run(plan_of(given), out=tmp_path)
    record = record_in(tmp_path)
    assert result.status == record["status"] == "failed"
    assert result.outputs == record["outputs"] == {}
    assert isinstance(result.error, NodeFailed)
    assert record["error"] == str(result.error)
    assert [p.name for p in result.written] == ["cell.txt"]
    rows = {r["name"]: r for r in record["nodes"]}
    assert rows["f"]["calls"] == 1


def test_unfinished_files_of_a_failed_node_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def save(a: Cell, run: NodeRun, path: Path) -> Path:
        target = run.output(path)
        target.write_text("half")
        target.with_name(f".{target.name}.part").write_text("half of the next")
        raise RuntimeError("no")

    monkeypatch.setitem(machines.TYPES, "m.save", replace(machines.TYPES["m.save"], function=save))
    result = run(plan_of(saving()), out=tmp_path)
    assert result.status == "failed"
    assert result.written == []
    assert [p.name for p in tmp_path.iterdir()] == ["run.json"]


def test_an_old_file_survives_a_node_that_failed_to_replace_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def save(a: Cell, run: NodeRun, path: Path) -> Path:
        run.output(path)
        raise RuntimeError("no")

    monkeypatch.setitem(machines.TYPES, "m.save", replace(machines.TYPES["m.save"], function=save))
    (tmp_path / "cell.txt").write_text("old")
    assert run(plan_of(saving()), out=tmp_path, overwrite=True).written == []
    assert (tmp_path / "cell.txt").read_text() == "old"


def never(value: int) -> Cell:
    raise AssertionError("a node ran")


@pytest.mark.parametrize(
    ("path", "existing", "message"),
    [
        ("cell.txt", "cell.txt", "cell.txt exists"),
        ("cell.txt", "run.json", "run.json exists"),
        ("../cell.txt", None, "outside the output folder"),
        ("/tmp/cell.txt", None, "outside the output folder"),
        ("", None, "outside the output folder"),
        ("run.json", None, "the name of the run's record"),
    ],
)
def test_an_unwritable_output_is_refused_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, existing: str | None, message: str
) -> None:
    monkeypatch.setitem(machines.TYPES, "m.const", replace(machines.TYPES["m.const"], function=never))
    if existing:
        (tmp_path / existing).write_text("old")
    with pytest.raises(NodeError, match=message):
        run(plan_of(saving(path)), out=tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ([existing] if existing else [])


def test_a_default_path_counts_too_and_one_file_is_not_written_twice(tmp_path: Path) -> None:
    given = graph(call("a", "m.const", value=3), call("s", "m.save", a="$a"), out="$s:value")
    (tmp_path / "cell.txt").write_text("old")
    with pytest.raises(NodeError, match=r"cell\.txt exists"):
        run(plan_of(given), out=tmp_path)
    twice = saving()
    twice = replace(twice, items={**twice.items, "t": call("t", "m.save", a="$a", path="cell.txt")})
    with pytest.raises(NodeError, match="written twice"):
        run(plan_of(twice), out=tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_overwrite_replaces_existing_files(tmp_path: Path) -> None:
    plan = plan_of(saving())
    assert run(plan, out=tmp_path).status == "done"
    (tmp_path / "cell.txt").write_text("old")
    assert run(plan, out=tmp_path, overwrite=True).status == "done"
    assert (tmp_path / "cell.txt").read_text() == "3\n"


def test_paths_that_depend_on_the_turn_are_kept_apart_at_run_time(tmp_path: Path) -> None:
    def saved(text: Any) -> Graph:
        body = graph(call("l.s", "m.save", a=Var("l", "c"), path=text), o="$l.s:value")
        return graph(call("cs", "m.cells"), loop("l", {"c": "$cs"}, body), out="$l:o")

    result = run(plan_of(saved(Format(("c-", Index("l"), ".txt")))), out=tmp_path / "a")
    assert record_in(tmp_path / "a")["outputs"] == {"out": ["c-0.txt", "c-1.txt", "c-2.txt"]}
    assert len(result.written) == 3
    result = run(plan_of(saved(Format(("c", Const(""), ".txt")))), out=tmp_path / "b")
    assert result.status == "failed"
    assert "already written by this run" in str(result.error)
    assert [p.name for p in result.written] == ["c.txt"]


@pytest.mark.parametrize("where", ["file", "file/below"])
def test_a_folder_that_cannot_be_made_is_an_error_of_the_caller(tmp_path: Path, where: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(NodeError, match="cannot write to"):
        run(plan_of(saving()), out=tmp_path / where)


def test_a_long_name_of_the_output_folder_is_cut_with_a_mark(tmp_path: Path) -> None:
    long, short = tmp_path / ("y" * 5000), tmp_path / "a\0b"
    with pytest.raises(NodeError) as error:
        run(plan_of(saving()), out=long)
    named = str(error.value).removeprefix("cannot write to ").partition(": ")[0]
    assert named.endswith("y…")
    assert len(named) <= 100
    assert str(long).startswith(named.removesuffix("…"))
    with pytest.raises(NodeError) as error:
        run(plan_of(saving()), out=short)
    assert "…" not in str(error.value)


def test_a_record_that_cannot_be_written_is_a_failure_that_says_so(tmp_path: Path) -> None:
    class Spoil(Observer):
        def run_finished(self, status: str, error: BaseException | None) -> None:
            (tmp_path / "run.json").mkdir()

    result = run(plan_of(saving()), out=tmp_path, observers=[Spoil()])
    assert result.status == "failed"
    assert "run.json cannot be written" in str(result.error)
    assert (tmp_path / "cell.txt").read_text() == "3\n"


def test_the_default_folder_is_below_outputs_for_every_name(tmp_path: Path) -> None:
    assert default_folder("../../etc/x y", tmp_path).parent == tmp_path
    first = default_folder("a", tmp_path)
    first.mkdir()
    assert default_folder("a", tmp_path) not in (first, tmp_path)


def test_the_clock_of_the_caller_counts(tmp_path: Path) -> None:
    clock = Clock(time.time() - 10, import_seconds=4, compile_seconds=2)
    run(plan_of(saving()), out=tmp_path, clock=clock)
    record = record_in(tmp_path)
    assert 10 <= record["seconds"] < 20
    assert record["phases"]["compile"] == 2
    assert record["phases"]["import"] >= 4


# observers


class Deaf(Observer):
    """Fails at the first node it hears of."""

    def node_finished(self, call: CallInfo, seconds: float, outputs: Mapping[str, Any]) -> None:
        raise ValueError("no disk")


def test_an_observer_that_fails_is_left_out_and_the_run_goes_on(tmp_path: Path) -> None:
    result = run(plan_of(saving()), out=tmp_path, observers=[Deaf()])
    assert result.status == "done"
    assert record_in(tmp_path)["warnings"] == ["Deaf failed and receives no more events: ValueError: no disk"]


class Ends(Observer):
    """Notes what comes after the end."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    def node_finished(self, call: CallInfo, seconds: float, outputs: Mapping[str, Any]) -> None:
        self.heard.append(call.id)

    def run_finished(self, status: str, error: BaseException | None) -> None:
        self.heard.append(status)


@pytest.fixture
def interrupts() -> Iterator[None]:
    """Ctrl-C raises here too, where these tests run in the background of a shell, which has it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interrupts")
def test_a_node_that_outlives_an_interrupt_is_heard_of_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inside, go_on, left = threading.Event(), threading.Event(), threading.Event()

    def slow(a: Cell, by: int = 2) -> Cell:
        inside.set()
        go_on.wait(20)
        left.set()
        return a

    monkeypatch.setitem(machines.TYPES, "m.scale", replace(machines.TYPES["m.scale"], function=slow))
    given = graph(call("a", "m.const", value=1), call("b", "m.scale", a="$a"), call("c", "m.scale", a="$b"), out="$c")
    observer = Ends()

    def interrupt() -> None:
        inside.wait(20)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    began = time.perf_counter()
    result = run(plan_of(given), out=tmp_path, observers=[observer])
    assert time.perf_counter() - began < 5
    assert (result.status, result.stuck, result.outputs) == ("interrupted", True, {})
    record = record_in(tmp_path)
    go_on.set()
    left.wait(20)
    time.sleep(0.1)
    assert observer.heard == ["a", "interrupted"]
    assert record_in(tmp_path) == record
    assert record["status"] == "interrupted"
    row = next(row for row in record["nodes"] if row["name"] == "b")
    assert (row["calls"], row["interrupted"]) == (0, True)
    assert row["seconds"] > 0.2, "the wait for its end counts"
    assert abs(record["unaccounted_seconds"]) < 0.02 * record["seconds"] + 0.01
    assert [entry["name"] for entry in record["timeline"] if entry["kind"] == "node"] == ["a", "b"]


def test_memory_that_does_not_suffice_is_told_from_other_failures() -> None:
    def failed(cause: BaseException) -> NodeFailed:
        return NodeFailed(call("a", "m.const", value=1), {}, cause)

    class Full(NodeLibrary):
        def is_out_of_memory(self, error: BaseException) -> bool:
            return str(error) == "no space"

    assert does_not_fit(failed(DoesNotFit("too big")), [])
    assert does_not_fit(failed(MemoryError()), [])
    assert not does_not_fit(failed(ValueError()), [NodeLibrary()])
    assert not does_not_fit(None, [Full()])
    assert does_not_fit(failed(RuntimeError("no space")), [NodeLibrary(), Full()])
    assert not does_not_fit(failed(RuntimeError("no time")), [NodeLibrary(), Full()])


# the command

NODES = '''
import sys, time
from sgd.graph.contract.node import OutPath, Run, node

@node("slow.sleep")
def sleep(seconds: float = 30.0) -> int:
    """Sleeps."""
    print("asleep", file=sys.stderr, flush=True)
    time.sleep(seconds)
    return 1

@node("slow.burn")
def burn(seconds: float = 30.0) -> int:
    """Uses the processor."""
    print("asleep", file=sys.stderr, flush=True)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        sum(range(1000))
    return 1

@node("slow.save", effect=True)
def save(run: Run, wait: float = 0.0, path: OutPath = "kept.txt") -> str:
    """Writes a file, the second half after a while."""
    target = run.output(path)
    with target.open("w") as file:
        file.write("half ")
        file.flush()
        if wait:
            print("asleep", file=sys.stderr, flush=True)
        time.sleep(wait)
        file.write("whole")
    print("this goes to nobody's JSON")
    return str(target)

@node("slow.fail")
def fail(kind: str) -> int:
    """Fails."""
    raise {"memory": MemoryError, "exit": SystemExit, "value": ValueError}[kind]("told so")
'''

FLOWS = {
    "sleep": "kept: {uses: slow.save}\n  slow: {uses: slow.sleep, with: {seconds: 30}}",
    "burn": "kept: {uses: slow.save}\n  slow: {uses: slow.burn, with: {seconds: 30}}",
    "write": "slow: {uses: slow.save, with: {wait: 30}}",
    "save": "slow: {uses: slow.save}",
    "fail": "slow: {uses: slow.fail, with: {kind: value}}",
}


def started(folder: Path, flow: str, *more: str) -> subprocess.Popen[str]:
    (folder / "slow_nodes.py").write_text(NODES)
    (folder / "w.yaml").write_text(f"sgd: 1\nname: w\nnodes:\n  {FLOWS[flow]}\noutputs: {{x: $slow}}\n")
    words = [
        sys.executable,
        "-m",
        "sgd.graph.cli.main",
        "exec",
        "w.yaml",
        "--library",
        "slow_nodes.py",
        "--out",
        "out",
        *more,
    ]
    return launch(words, folder)


def launch(words: list[str], folder: Path) -> subprocess.Popen[str]:
    """A process that hears Ctrl-C, even if these tests run in the background of a shell, where it is ignored."""
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(words, cwd=folder, text=True, preexec_fn=hear_interrupts, **pipes)  # noqa: PLW1509 - it starts no thread


def hear_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def interrupted(process: subprocess.Popen[str], number: signal.Signals, again: float = 0) -> tuple[str, str, float]:
    """Send a signal once the slow node is at work; the streams, and the seconds until the process ended."""
    assert process.stderr is not None
    before = ""
    while "asleep" not in before:
        line = process.stderr.readline()
        assert line, before
        before += line
    process.send_signal(number)
    began = time.perf_counter()
    if again:
        time.sleep(again)
        process.send_signal(number)
    out, err = process.communicate(timeout=20)
    return out, before + err, time.perf_counter() - began


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("flow", ["sleep", "burn", "write"])
def test_an_interrupt_ends_a_run_within_a_second(tmp_path: Path, flow: str, number: signal.Signals) -> None:
    process = started(tmp_path, flow)
    out, err, seconds = interrupted(process, number)
    assert process.returncode == 3, err
    assert seconds < 1
    assert out == ""
    assert "Traceback" not in err
    kept = [] if flow == "write" else ["kept.txt"]
    assert f"interrupted; files kept: {'out/kept.txt' if kept else 'none'}" in err.replace(f"{tmp_path.resolve()}/", "")
    assert err.rstrip().endswith("go on with: sgd resume out --library slow_nodes.py")
    assert record_in(tmp_path / "out")["status"] == "interrupted"
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [".resume", *kept, "run.json"]


def test_two_interrupts_leave_a_record_too(tmp_path: Path) -> None:
    process = started(tmp_path, "sleep")
    _, err, _ = interrupted(process, signal.SIGINT, again=0.15)
    assert process.returncode == 3, err
    assert "Traceback" not in err
    assert record_in(tmp_path / "out")["status"] == "interrupted"


def test_an_interrupt_while_compiling_gives_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "slow_import.py").write_text(
        "import sys, time\nprint('asleep', file=sys.stderr, flush=True)\ntime.sleep(30)\n"
    )
    (tmp_path / "w.yaml").write_text("sgd: 1\nnodes: {}\n")
    words = [sys.executable, "-m", "sgd.graph.cli.main", "exec", "w.yaml", "--library", "slow_import.py"]
    process = launch(words, tmp_path)
    out, err, seconds = interrupted(process, signal.SIGINT)
    assert (process.returncode, out, err) == (3, "", "asleep\ninterrupted\n")
    assert seconds < 1


def test_stdout_is_the_result_alone(tmp_path: Path) -> None:
    process = started(tmp_path, "save", "--json")
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    record = json.loads(out)
    SCHEMA.validate(record)
    assert record == record_in(tmp_path / "out")
    assert "this goes to nobody's JSON" in err
    assert record["workflow"]["file"] == "w.yaml"


def test_quiet_says_nothing(tmp_path: Path) -> None:
    process = started(tmp_path, "fail", "--quiet")
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (1, "")
    assert err.startswith("error: slow (slow.fail) failed: ValueError: told so\n --> w.yaml:4:16")


@pytest.mark.parametrize(("kind", "code"), [("memory", 4), ("exit", 1)])
def test_exit_codes_of_failures(tmp_path: Path, kind: str, code: int) -> None:
    process = started(tmp_path, "fail", "--set", f"slow.kind={kind}")
    _, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    assert "Traceback" not in err
    assert record_in(tmp_path / "out")["status"] == "failed"
