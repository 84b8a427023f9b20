"""The clock: who has each moment, imports and compiling in the middle of a node, and threads."""

from __future__ import annotations

import importlib.util
import json
import sys
import threading
import time
import types
from collections.abc import Iterator
from dataclasses import replace
from importlib.machinery import ExtensionFileLoader, SourceFileLoader
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from helpers import machines
from helpers.machines import Cell, call, graph, plan_of
from sgd.graph.compiler.plan import Expected
from sgd.graph.runtime.clock import COMPILE, IMPORT, KERNELS, LOAD, OTHER, Clock, process_start
from sgd.graph.runtime.import_times import watched
from sgd.graph.runtime.kernel_times import COMPILER, TRITON
from sgd.graph.runtime.record import Recorder
from sgd.graph.runtime.run import run

SHORT = 0.02


def test_an_inner_owner_pauses_the_outer_one() -> None:
    clock = Clock()
    with clock.during("a"):
        time.sleep(SHORT)
        with clock.during(IMPORT):
            time.sleep(2 * SHORT)
        time.sleep(SHORT)
    assert 2 * SHORT <= clock.spent["a"] < 2 * SHORT + 0.03
    assert 2 * SHORT <= clock.spent[IMPORT] < 2 * SHORT + 0.02
    assert clock.spent["a"] + clock.spent[IMPORT] == pytest.approx(clock.now(), abs=2e-3)
    inner, outer = clock.spans
    assert (inner.owner, outer.owner) == (IMPORT, "a")
    assert outer.start < inner.start < inner.start + inner.seconds < outer.start + outer.seconds


def test_switch_ends_all_that_is_nested_and_time_falls_to_the_one_that_serves() -> None:
    clock = Clock()
    clock.serve("executor")
    clock.switch("a")
    clock.enter(KERNELS)
    time.sleep(SHORT)
    clock.switch()
    assert clock.owner == "executor"
    time.sleep(SHORT)
    clock.give(0.5, "a")
    assert clock.spent["a"] == pytest.approx(-0.5, abs=1e-3)
    assert clock.seconds_of("executor") == pytest.approx(0.5 + SHORT, abs=SHORT)


def test_other_threads_cannot_touch_the_clock_until_they_adopt_it() -> None:
    clock = Clock()
    clock.enter("a")

    def other(adopt: bool) -> None:
        if adopt:
            clock.adopt()
        clock.enter("b")
        time.sleep(SHORT)
        clock.leave()

    for adopt in (False, True):
        thread = Thread(target=other, args=(adopt,))
        thread.start()
        thread.join()
    assert clock.spent["b"] < 2 * SHORT
    assert clock.spent["a"] >= SHORT
    clock.leave()  # this thread has lost it
    clock.enter("c")
    assert "c" not in clock.spent
    assert clock.owner == ""


def test_the_process_began_before_now_and_its_time_until_now_is_import() -> None:
    clock = Clock.of_process()
    assert process_start() < time.time()
    assert clock.spent[IMPORT] == pytest.approx(clock.now(), abs=0.1)
    assert clock.spent[IMPORT] > 0.05  # importing pytest takes longer
    assert clock.spans[0].owner == IMPORT


@pytest.fixture
def slow_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A module whose import takes 3 `SHORT`, of which its own import of another takes 1."""
    (tmp_path / "slow_outer_module.py").write_text(
        f"import time\nimport slow_inner_module\ntime.sleep({2 * SHORT})\ndone = True\n"
    )
    (tmp_path / "slow_inner_module.py").write_text(f"import time\ntime.sleep({SHORT})\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    yield "slow_outer_module"
    for name in ("slow_outer_module", "slow_inner_module"):
        sys.modules.pop(name, None)


def test_an_import_in_the_middle_of_a_node_counts_once_and_as_import(slow_module: str) -> None:
    clock = Clock()
    with watched(clock), watched(clock), clock.during("a"):
        importlib.import_module(slow_module)
        assert clock.owner == "a"
    assert 3 * SHORT <= clock.spent[IMPORT] < 3 * SHORT + 0.05
    assert clock.spent["a"] < SHORT
    assert [span.owner for span in clock.spans] == [IMPORT, "a"]


def test_an_import_by_another_thread_does_not_count(slow_module: str) -> None:
    clock = Clock()
    with watched(clock), clock.during("a"):
        thread = Thread(target=importlib.import_module, args=(slow_module,))
        thread.start()
        thread.join()
    assert clock.spent[IMPORT] == 0
    assert clock.spent["a"] >= 3 * SHORT


def test_a_module_that_fails_leaves_the_clock_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "failing_module.py").write_text("raise ValueError('no')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    clock = Clock()
    with watched(clock), clock.during("a"):
        with pytest.raises(ValueError, match="no"):
            importlib.import_module("failing_module")
        assert clock.owner == "a"


def test_the_loaders_are_as_before() -> None:
    before = SourceFileLoader.exec_module, ExtensionFileLoader.create_module, dict(vars(SourceFileLoader))
    with watched(Clock()), watched(Clock()):
        assert SourceFileLoader.exec_module is not before[0]
    assert (SourceFileLoader.exec_module, ExtensionFileLoader.create_module, dict(vars(SourceFileLoader))) == before


class Handler:
    """A double of torch's handler of callbacks."""

    def __init__(self) -> None:
        self.start: list[Any] = []
        self.end: list[Any] = []
        self.register_start_callback, self.register_end_callback = self.start.append, self.end.append
        self.remove_start_callback, self.remove_end_callback = self.start.remove, self.end.remove


def compiling(handler: Handler) -> None:
    for callback in handler.start:
        callback(None)
    time.sleep(SHORT)
    for callback in handler.end:
        callback(None)


def test_compiling_counts_as_kernels_and_callbacks_do_not_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    handler, module = Handler(), types.ModuleType(COMPILER)
    module.callback_handler = handler  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, COMPILER, module)
    clock = Clock()
    with watched(clock), clock.during("a"):
        compiling(handler)
    assert SHORT <= clock.spent[KERNELS] < SHORT + 0.02
    assert clock.spent["a"] < SHORT
    assert handler.start == handler.end == []
    with watched(clock):
        handler.start.clear()  # as `torch._dynamo.reset` does


def test_a_compiler_that_is_imported_by_the_node_itself_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, COMPILER, raising=False)
    file = tmp_path / "callback.py"
    file.write_text("from test_clock import Handler\ncallback_handler = Handler()\n")
    monkeypatch.setitem(sys.modules, "test_clock", sys.modules[__name__])
    clock = Clock()
    with watched(clock), clock.during("a"):
        spec = importlib.util.spec_from_file_location(COMPILER, file)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, COMPILER, module)
        spec.loader.exec_module(module)
        compiling(module.callback_handler)
    assert clock.spent[KERNELS] >= SHORT


def test_in_a_run_an_import_inside_a_node_is_import_and_rows_sum_to_the_seconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slow_module: str
) -> None:
    def importing(a: Cell, by: int = 2) -> Cell:
        importlib.import_module(slow_module)
        time.sleep(SHORT)
        return Cell(a.value)

    monkeypatch.setitem(machines.TYPES, "m.scale", replace(machines.TYPES["m.scale"], function=importing))
    given = graph(call("a", "m.const", value=1), call("b", "m.scale", a="$a"), out="$b")
    record = run(plan_of(given), out=tmp_path / "out").record
    rows = {row["name"]: row["seconds"] for row in record["nodes"]}
    assert 3 * SHORT <= rows[IMPORT] == record["phases"]["import"]
    assert SHORT <= rows["b"] < 2.5 * SHORT
    assert sum(rows.values()) == pytest.approx(record["seconds"] - record["unaccounted_seconds"])
    assert abs(record["unaccounted_seconds"]) < 0.02
    assert rows[COMPILE] == rows[LOAD] == 0
    other = next(row for row in record["nodes"] if row["name"] == OTHER)
    assert set(other["detail"]) == {"start", "executor", "end", "record"}
    assert sum(other["detail"].values()) == pytest.approx(other["seconds"])
    node = next(e for e in record["timeline"] if e["name"] == "b")
    inside = [e for e in record["timeline"] if e["name"] == IMPORT and e["seconds"] >= 3 * SHORT]
    assert node["start"] <= inside[-1]["start"] < node["start"] + node["seconds"]
    assert node["seconds"] >= 4 * SHORT  # all that stands inside


def test_making_the_record_has_a_row_and_short_runs_add_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, slow = Recorder.record, 3 * SHORT

    def recording(*arguments: Any) -> dict[str, Any]:
        time.sleep(slow)
        return plain(*arguments)

    cells = call("a", "m.const", value=1), call("b", "m.scale", a="$a")
    failing = call("f", "m.fail", a="$b", at=2)
    for name, given in (("done", graph(*cells, out="$b")), ("failed", graph(*cells, failing, out="$f"))):
        began = time.perf_counter()
        short = run(plan_of(given), out=tmp_path / name)
        took = time.perf_counter() - began
        with monkeypatch.context() as patch:
            patch.setattr(Recorder, "record", recording)
            long = run(plan_of(given), out=tmp_path / f"{name} slowly")
        for result in (short, long):
            record = result.record
            assert record == json.loads((result.folder / "run.json").read_text())
            assert record["status"] == name
            seconds = record["seconds"]
            top = sum(row["seconds"] for row in record["nodes"] if "." not in row["name"])
            assert top == pytest.approx(seconds, rel=0.02)
            assert sum(record["phases"].values()) == pytest.approx(seconds, rel=1e-6)
            assert abs(record["unaccounted_seconds"]) <= 0.02 * seconds
        assert short.record["seconds"] <= took
        parts = next(row["detail"] for row in record["nodes"] if row["name"] == OTHER)
        assert slow <= parts["record"] < slow + 0.1
        assert record["seconds"] > slow


def test_comparing_with_what_is_expected_has_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(expected: Any, record: Any, *_: Any) -> list[Any]:
        time.sleep(3 * SHORT)
        return [{"name": "seconds", "limit": 9, "value": record["seconds"], "met": True}]

    monkeypatch.setattr("sgd.graph.runtime.worker.judged", slow)
    plan = replace(plan_of(graph(call("a", "m.const", value=1), out="$a")), expected=Expected(seconds=9))
    record = run(plan, out=tmp_path).record
    other = next(row for row in record["nodes"] if row["name"] == OTHER)
    assert 3 * SHORT <= other["detail"]["expect"] < 3 * SHORT + 0.1
    assert record["seconds"] >= 3 * SHORT
    assert sum(row["seconds"] for row in record["nodes"]) == pytest.approx(record["seconds"], rel=0.02, abs=2e-3)
    # The limit is for the time to the last saved byte, without the comparison.
    assert record["expectations"][0]["value"] < record["seconds"] - 2 * SHORT


def test_off_keeps_no_timeline_and_no_memory_and_counts_no_work(tmp_path: Path) -> None:
    given = graph(call("a", "m.const", value=1), call("b", "m.scale", a="$a"), out="$b")
    record = run(plan_of(given), out=tmp_path, profile="off").record
    assert (record["timeline"], record["memory"], record["ceilings"]) == ([], [], None)
    assert {row[key] for row in record["nodes"] for key in ("flops", "bytes", "ceiling")} == {None}
    assert "sgd memory" not in {thread.name for thread in threading.enumerate()}


@pytest.fixture
def triton(monkeypatch):
    """Modules with the names of Triton's: a kernel takes 20 ms to compile, and a trial of it 10 ms more."""

    class JITFunction:
        def _do_compile(self, works: bool = True) -> str:
            time.sleep(0.02)
            if not works:
                raise RuntimeError("no C compiler")
            return "kernel"

    class Autotuner:
        def _bench(self) -> str:
            time.sleep(0.01)
            return JITFunction()._do_compile()

    for (name, _, _), cls in zip(TRITON, (JITFunction, Autotuner), strict=True):
        module = types.ModuleType(name)
        setattr(module, cls.__name__, cls)
        monkeypatch.setitem(sys.modules, name, module)
    return JITFunction, Autotuner


def test_kernels_of_triton_count_as_kernels(triton):
    function, tuner = triton
    before = function._do_compile, tuner._bench
    clock = Clock()
    with watched(clock):
        clock.enter("node")
        assert function()._do_compile() == "kernel"
        assert tuner()._bench() == "kernel"
        with pytest.raises(RuntimeError, match="no C compiler"):
            function()._do_compile(works=False)
        assert clock.owner == "node"
        clock.leave()
    assert 0.07 <= clock.spent[KERNELS] < 0.2
    assert clock.spent["node"] < 0.02
    assert (function._do_compile, tuner._bench) == before


def test_kernels_that_another_thread_builds_are_not_waited_for(triton):
    function, _ = triton
    clock = Clock()
    with watched(clock):
        clock.enter("node")
        other = threading.Thread(target=function()._do_compile)
        other.start()
        other.join()
        clock.leave()
    assert KERNELS not in clock.spent


def test_a_kernel_that_another_thread_compiles_is_waited_for_and_not_compiled_again(triton, monkeypatch):
    function, _ = triton
    compiling, asked, made = threading.Event(), threading.Event(), []

    def compile_(self, key, signature, device):
        compiling.set()
        asked.wait(5)
        time.sleep(0.02)
        made.append(key)
        self.device_caches[device][0][key] = "kernel"
        return "kernel"

    monkeypatch.setattr(function, "_do_compile", compile_)
    kernel = function()
    kernel.device_caches = {0: ({},)}
    clock = Clock()
    with watched(clock):
        clock.enter("node")
        other = threading.Thread(target=kernel._do_compile, args=("key", {}, 0))
        other.start()
        assert compiling.wait(5)
        asked.set()
        assert kernel._do_compile("key", {}, 0) == "kernel"
        clock.leave()
        other.join()
    assert made == ["key"]
    assert 0.01 <= clock.spent[KERNELS] < 1


def test_runs_at_once_share_the_hook_of_triton(triton):
    function, _ = triton
    before = function._do_compile
    one, other = Clock(), Clock()
    with watched(one):
        with watched(other):
            function()._do_compile()
        assert function._do_compile is not before
    assert function._do_compile is before
    assert min(one.spent[KERNELS], other.spent[KERNELS]) >= 0.02


def test_triton_has_the_methods_that_are_watched():
    """Private names of Triton 3.6; a version without them would count its kernels as the node's."""
    pytest.importorskip("triton")
    for module, name, method in TRITON:
        assert callable(getattr(getattr(importlib.import_module(module), name), method))
