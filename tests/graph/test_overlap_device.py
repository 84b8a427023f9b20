"""`--overlap-device`: the tail of a turn on another device. The devices are stand-ins: values say where they are."""

from __future__ import annotations

import itertools
import json
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import machines
from helpers.machines import Cell, Core, Machine, call, numbers_of, plan_of
from helpers.overlapped import COUNT, SHAPES, STORED, changed, failing, two_pairs
from helpers.positions import Listener
from helpers.slow_nodes import NODES, started
from helpers.slow_nodes import Run as Started
from helpers.untimed_records import untimed
from jsonschema import Draft202012Validator
from sgd.graph.cli.main import main
from sgd.graph.compiler.ir import Var
from sgd.graph.compiler.overlaps import overlaps_of
from sgd.graph.compiler.plan import Plan
from sgd.graph.contract import device as devices
from sgd.graph.contract.errors import NodeError
from sgd.graph.contract.events import Observers
from sgd.graph.contract.node import Run
from sgd.graph.contract.node_library import NodeLibrary
from sgd.graph.contract.second_stream import SecondDevice
from sgd.graph.resume import snapshot_file
from sgd.graph.resume.snapshot_content import snapshot_of
from sgd.graph.resume.snapshot_reading import resumed_at
from sgd.graph.runtime import stored_steps
from sgd.graph.runtime.context import Context
from sgd.graph.runtime.execute import Executor
from sgd.graph.runtime.failure import NodeFailed
from sgd.graph.runtime.overlap import possible
from sgd.graph.runtime.overlap.overlapped_steps import OverlappedSteps
from sgd.graph.runtime.record import Recorder
from sgd.graph.runtime.run import run

__all__ = ["started"]
SCHEMA = Draft202012Validator(json.loads((Path(__file__).parents[2] / "docs" / "run.schema.json").read_text()))
SECOND = "cuda:1"
REQUIRE = devices.require_second_card


class There(Cell):
    """A number on the second device."""


class Double(SecondDevice):
    """Brings numbers and machines to a second device and back, and notes everything that it is asked."""

    def __init__(self, first: str, second: str) -> None:
        self.devices = first, second
        self.moved: list[tuple[str, str, str]] = []
        self.machines: list[tuple[Core, Core]] = []
        self.is_around = False

    @contextmanager
    def around(self) -> Iterator[None]:
        self.is_around = True
        yield
        self.is_around = False

    def given(self) -> str:
        return threading.current_thread().name

    def taken(self, mark: str, values: Sequence[Any]) -> None:
        assert mark != threading.current_thread().name

    def there(self, value: Any) -> Any:
        if isinstance(value, list):
            return [self.there(each) for each in value]
        if isinstance(value, Machine):
            pair = next((pair for pair in self.machines if pair[0] is value.core), None)
            if pair is None:
                pair = value.core, Core(f"{value.core.name} on {self.devices[1]}")
                self.machines.append(pair)
            return Machine(pair[1], value.tuned)
        return self._cell("there", value, There)

    def back(self, value: Any) -> Any:
        if isinstance(value, list):
            return [self.back(each) for each in value]
        return self._cell("back", value, Cell)

    def _cell(self, way: str, value: Any, kind: type[Cell]) -> Any:
        if not isinstance(value, Cell):
            return value
        self.moved.append((way, type(value).__name__, threading.current_thread().name))
        return kind(value.value)


class Library(NodeLibrary):
    """A library whose values lie on devices."""

    def __init__(self) -> None:
        self.links: list[Double] = []

    def second_device(self, run: Run, device: str) -> Double:
        self.links.append(Double(run.device, device))
        return self.links[-1]


@pytest.fixture(autouse=True)
def any_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """No GPU need be there. A node of the second thread makes numbers there, and reads no others."""
    monkeypatch.setattr(possible.devices, "require_second_card", lambda *_: None)
    for name in ("m.decode", "m.save", "m.fail"):
        original = machines.TYPES[name]

        def function(original: Any = original, **arguments: Any) -> Any:
            second = threading.current_thread().name == "sgd overlap"
            assert isinstance(arguments["a"], There) == second
            made = original.function(**arguments)
            return There(made.value) if second and isinstance(made, Cell) else made

        monkeypatch.setitem(machines.TYPES, name, replace(original, function=function))


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, str]]:
    """Each part that is acquired and released: the machine, the part, and the device."""
    noted: list[tuple[str, str, str]] = []

    def acquire(machine: Machine, part: str, run: Run) -> None:
        noted.append((machine.core.name, part, run.device))
        machine.core.held[part] = machine.core.held.get(part, 0) + 1

    original = Machine.release

    def release(machine: Machine, part: str) -> None:
        original(machine, part)
        noted.append((machine.core.name, part, "released"))

    monkeypatch.setattr(Machine, "acquire", acquire)
    monkeypatch.setattr(Machine, "release", release)
    return noted


def placed(shape: Callable[[], Any]) -> tuple[Plan, Library]:
    library = Library()
    return replace(plan_of(shape()), libraries=(library,)), library


def without_place(record: Any) -> Any:
    """A record without times, where a number on the second device is a number."""
    alike = json.loads(json.dumps(record).replace('"There"', '"Cell"'))
    return untimed({name: value for name, value in alike.items() if name != "overlap_device"})


@pytest.mark.parametrize("shape", SHAPES)
def test_a_tail_has_its_values_and_components_on_its_device_and_its_results_come_back(
    shape: str, loaded: list[tuple[str, str, str]], tmp_path: Path
) -> None:
    plan, library = placed(SHAPES[shape])
    before = run(plan, out=tmp_path / "without")
    loaded.clear()
    after = run(plan, out=tmp_path / "with", overlap=SECOND)
    assert after.status == "done", after.error
    assert after.record["overlap_device"] == SECOND
    assert "overlap_device" not in before.record
    SCHEMA.validate(after.record)
    assert without_place(after.record) == untimed(before.record)
    assert numbers_of(after.outputs) == numbers_of(before.outputs) | {"files": after.outputs["files"]}
    files = {path.name: path.read_text() for path in (tmp_path / "without").glob("*.txt")}
    assert {path.name: path.read_text() for path in (tmp_path / "with").glob("*.txt")} == files
    assert sorted(loaded) == sorted(
        [
            ("machine", "painter", "cpu"),
            ("machine", "painter", "released"),
            (f"machine on {SECOND}", "decoder", SECOND),
            (f"machine on {SECOND}", "decoder", "released"),
        ]
    )
    (link,) = library.links
    assert link.devices == ("cpu", SECOND)
    ways = [(way, kind) for way, kind, _ in link.moved]
    assert ways.count(("there", "Cell")) == ways.count(("back", "There")) == COUNT
    assert {thread for *_, thread in link.moved} == {"sgd overlap"}
    assert not any(isinstance(cell, There) for name in ("all",) for cell in [after.outputs[name]])


def with_common_part(shape: str) -> Any:
    """Heads read the decoder too."""
    items: Any = [call("l.early", "m.decode", machine="$box:machine", a=Var("l", "c"))]
    given = changed(SHAPES[shape](), "l", *items)
    outer: Any = given.items["l"]
    body = dict(outer.body.items)
    body["l.start"] = replace(body["l.start"], args={**body["l.start"].args, "a": machines.arg("$l.early")})
    body = {id: body[id] for id in ("l.early", *(id for id in body if id != "l.early"))}
    return replace(given, items={**given.items, "l": replace(outer, body=replace(outer.body, items=body))})


@pytest.mark.parametrize("shape", SHAPES)
def test_a_component_of_both_is_loaded_on_both(shape: str, loaded: list[tuple[str, str, str]], tmp_path: Path) -> None:
    plan, _ = placed(lambda: with_common_part(shape))
    before, after = run(plan, out=tmp_path / "without"), run(plan, out=tmp_path / "with", overlap=SECOND)
    assert after.status == "done", after.error
    assert numbers_of(after.outputs["all"]) == numbers_of(before.outputs["all"])
    places = [(name, device) for name, part, device in loaded[4:] if part == "decoder" and device != "released"]
    assert sorted(places) == [("machine", "cpu"), (f"machine on {SECOND}", SECOND)]


def test_two_pairs_of_loops_share_a_component(loaded: list[tuple[str, str, str]], tmp_path: Path) -> None:
    plan, _ = placed(two_pairs)
    before, after = run(plan, out=tmp_path / "without"), run(plan, out=tmp_path / "with", overlap=SECOND)
    assert after.status == "done", after.error
    assert numbers_of(after.outputs["sum"]) == numbers_of(before.outputs["sum"])
    assert len(list((tmp_path / "with").glob("*.txt"))) == 2 * COUNT
    there = [device for name, _, device in loaded if name != "machine"]
    assert there == [SECOND, "released"]


def test_a_component_of_both_that_cannot_be_on_both_is_an_error(tmp_path: Path) -> None:
    plan = replace(plan_of(with_common_part("body")), libraries=(NodeLibrary(),))
    result = run(plan, out=tmp_path, overlap=SECOND)
    assert result.status == "failed"
    assert "decoder of box is read on both devices, but can be on only one" in str(result.error)


@pytest.mark.parametrize("shape", SHAPES)
def test_after_an_error_nothing_is_left_on_the_device(
    shape: str, loaded: list[tuple[str, str, str]], tmp_path: Path
) -> None:
    plan, library = placed(lambda: failing(shape, 3 * 1 + 2, "tail"))
    before, after = run(plan, out=tmp_path / "without"), run(plan, out=tmp_path / "with", overlap=SECOND)
    assert isinstance(after.error, NodeFailed)
    assert str(after.error).replace("There", "Cell") == str(before.error)
    assert sum(device == "released" for *_, device in loaded) * 2 == len(loaded)
    assert not library.links[0].is_around


def on_second(plan: Plan, out: Path, listener: Listener, start: Any = None) -> Any:
    """Run a plan with its tails on the second device, without a record."""
    observers = Observers([])
    executor = Executor(plan, Context(out, observers, overwrite=True), observers, positions=listener, start=start)
    OverlappedSteps(overlaps_of(plan)[0], executor, Recorder(), None, SECOND)
    return numbers_of(executor.execute())


@pytest.mark.parametrize("shape", SHAPES)
def test_a_run_cut_at_any_place_goes_on_on_both_devices(
    shape: str, loaded: list[tuple[str, str, str]], tmp_path: Path
) -> None:
    plan, _ = placed(SHAPES[shape])
    listener = Listener()
    whole = on_second(plan, tmp_path, listener)
    assert len(listener.kept) > COUNT
    for kept in listener.kept:
        snapshot = snapshot_of(kept, plan, [], tmp_path, {"choices": {}, "used": []})
        snapshot_file.write(snapshot, tmp_path / "s.safetensors")
        start = resumed_at(snapshot_file.read(tmp_path / "s.safetensors"), plan).start(plan, [], tmp_path)
        loaded.clear()
        assert on_second(plan, tmp_path, Listener(), start) == whole
        assert sum(device == "released" for *_, device in loaded) * 2 == len(loaded)


def counted_by_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each call takes a second of its thread."""
    counts: defaultdict[int, Iterator[int]] = defaultdict(itertools.count)
    monkeypatch.setattr(stored_steps, "perf_counter", lambda: next(counts[threading.get_ident()]))


def test_stored_results_are_used_on_the_second_device(
    tmp_path: Path, started: Started, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted_by_thread(monkeypatch)
    found = {}
    for overlap in (False, SECOND):
        store = tmp_path / f"store {overlap}"
        runs = [
            started(STORED, store, overlap=overlap),
            started(STORED, store, None, {"save.file.mark": "x"}, overlap=overlap),
            started(STORED, store, {"texts": ["a", "bb", "dddd"]}, overlap=overlap),
        ]
        rows = [[(row["name"], row["calls"], row.get("reused")) for row in done.record["nodes"]] for done, _ in runs]
        found[overlap] = [sorted(calls) for _, calls in runs], rows
    assert found[SECOND] == found[False]


def test_stored_values_go_to_the_second_device(
    tmp_path: Path, started: Started, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted_by_thread(monkeypatch)
    seen: list[tuple[str, float]] = []

    class Link(SecondDevice):
        def there(self, value: Any) -> Any:
            if hasattr(value, "value"):
                seen.append((threading.current_thread().name, value.value))
            return value

    monkeypatch.setattr(NodeLibrary, "second_device", lambda *_: Link())
    started(STORED, tmp_path / "store", overlap=SECOND)
    assert sorted(value for _, value in seen) == [4.0, 8.0, 12.0]  # from the first loop
    seen.clear()
    started(STORED, tmp_path / "store", {"texts": ["a", "bb", "dddd"]}, overlap=SECOND)
    # Two of the second loop, which the store has, and one of the first. Nobody reads the others of the first.
    assert sorted(value for _, value in seen) == [8.0, 16.0, 16.0]
    assert {thread for thread, _ in seen} == {"sgd overlap"}


def test_bytes_of_a_device_are_those_of_its_own_part() -> None:
    plan = plan_of(SHAPES["body"]())
    (overlap,), _ = overlaps_of(plan)
    nodes = [
        {"name": "l.d.heavy", "peak_bytes": 100, "components": [["box", "painter"], ["box", "decoder"]]},
        {"name": "l.tail", "peak_bytes": 90, "components": [["box", "decoder"], ["box", "painter"]]},
        {"name": "l.save", "peak_bytes": 10, "components": [["box", "decoder"]]},
    ]
    parts = [{"holder": "box", "part": "decoder", "bytes": 20}, {"holder": "box", "part": "painter", "bytes": 30}]
    assert possible.bytes_apart({"nodes": nodes, "components": parts}, plan, overlap) == 60


def test_too_little_memory_on_the_second_device_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_of(SHAPES["next"]())
    found, _ = overlaps_of(plan)
    asked: list[str] = []
    monkeypatch.setattr(possible, "estimate", lambda *_, **__: {"nodes": [], "components": []})
    monkeypatch.setattr(possible, "bytes_apart", lambda *_: 1000)
    monkeypatch.setattr(possible.devices, "memory_bytes", lambda device: asked.append(device) or 1050)
    warning = possible.misfit(plan, found, "cuda", {}, SECOND)
    assert warning.startswith("--overlap-device cuda:1: the end of a turn needs 1000 B, and that device has 1.03 KiB")
    assert asked == [SECOND]


@pytest.mark.parametrize(
    ("name", "head_device", "message", "help"),
    [
        ("cuda:1", "cpu", "the run is on the device cpu, and both must be GPUs", "leave it out, or run on a GPU"),
        ("cpu", "cuda", "cpu is no GPU with a number", "write `--overlap-device cuda:1`"),
        ("cuda:2", "cuda", "there is no such GPU; torch finds 2", "choose cuda:1; `sgd doctor` lists them"),
        ("cuda:0", "cuda", "the run itself is on that GPU", "name another GPU"),
        ("cuda:1", "cuda:1", "the run itself is on that GPU", "name another GPU"),
    ],
)
def test_devices_that_cannot_take_the_tail(
    name: str, head_device: str, message: str, help: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "device_count", lambda: 2)
        with pytest.raises(NodeError) as found:
            devices.require_second_card(name, head_device)
        assert str(found.value) == f"--overlap-device {name}: {message}"
        assert help in (found.value.help or "")
        devices.require_second_card("cuda:1", "cuda")


def test_no_turn_may_be_left_of_the_first_loop(loaded: list[tuple[str, str, str]], tmp_path: Path) -> None:
    """A run that was cut after the last turn of the first loop runs the second one in its own thread."""
    plan, _ = placed(SHAPES["next"])
    listener = Listener()
    whole = on_second(plan, tmp_path, listener)
    kept = next(each for each in listener.kept if each.position.levels and each.position.levels[0].turn == COUNT)
    snapshot_file.write(snapshot_of(kept, plan, [], tmp_path, {"choices": {}, "used": []}), tmp_path / "s")
    start = resumed_at(snapshot_file.read(tmp_path / "s"), plan).start(plan, [], tmp_path)
    loaded.clear()
    assert on_second(plan, tmp_path, Listener(), start) == whole
    decoders = [device for name, part, device in loaded if name == "machine" and part == "decoder"]
    assert decoders == ["cpu", "released"]


def test_the_command_refuses_or_says_where_it_ran(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    library = tmp_path / "slow_nodes.py"
    library.write_text(NODES)
    (tmp_path / "many.yaml").write_text(STORED)
    words = ["exec", str(tmp_path / "many.yaml"), "--library", str(library), "--store", "off"]
    words += ["--overlap-device", SECOND, "--out"]
    assert main([*words, str(tmp_path / "yes"), "--device", "cpu"]) == 0
    assert f"s of nodes ran in a second thread on {SECOND} while other nodes ran" in capsys.readouterr().out
    record = json.loads((tmp_path / "yes" / "run.json").read_text())
    assert record["overlap_device"] == SECOND
    no = str(tmp_path / "no")
    assert main([*words, no, "--device", "cuda:0"]) == 2
    assert "--overlap-device cuda:1: --device cuda:0 leaves the run one GPU" in capsys.readouterr().err
    assert main(["exec", "many_prompts", *words[4:], no, "--device", "cpu", "--processes", "2"]) == 2
    assert "a run in several processes cannot have --overlap-device" in capsys.readouterr().err
    assert main([*words, no, "--ray"]) == 2
    assert "--ray cannot be combined with --overlap-device" in capsys.readouterr().err
    monkeypatch.undo()
    assert main([*words, no, "--device", "cpu"]) == 2
    assert "--overlap-device cuda:1: the run is on the device cpu, and both must be GPUs" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*words, no, "--overlap-device", "cpu"])
    assert "'cpu' is no GPU with a number; give cuda:1" in capsys.readouterr().err
    assert not (tmp_path / "no").exists()


TRIP = """

@node("slow.trip")
def trip(a: Number) -> Number:
    \"\"\"The number, unless a file is there.\"\"\"
    if a.value == 8 and Path("trip").exists():
        raise RuntimeError("tripped")
    return Number(a.value)
"""


@pytest.mark.parametrize("is_there", [True, False])
def test_a_run_goes_on_with_the_device_or_says_that_it_is_gone(
    is_there: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("trip").touch()
    Path("nodes.py").write_text(NODES + TRIP)
    text = STORED.replace(
        "uses: slow.double, with: {a: $n}}\n      file", "uses: slow.trip, with: {a: $n}}\n      file"
    )
    Path("many.yaml").write_text(text)
    library = ["--library", "nodes.py"]
    words = ["exec", "many.yaml", *library, "--device", "cpu", "--store", "off", "--out", "out"]
    assert main([*words, "--overlap-device", SECOND, "--snapshot-every", "0"]) == 1
    assert "tripped" in capsys.readouterr().err
    Path("trip").unlink()
    if not is_there:
        monkeypatch.setattr(devices, "require_second_card", REQUIRE)
    assert main(["resume", "out", *library]) == 0
    said = capsys.readouterr().err
    record = json.loads(Path("out/run.json").read_text())
    assert record.get("overlap_device") == (SECOND if is_there else None)
    assert "overlapped_seconds" in record
    gone = "warning: --overlap-device cuda:1: the run is on the device cpu, and both must be GPUs; the run goes on"
    assert (gone in said) != is_there
    assert len(list(Path("out").glob("n-*.txt"))) == 3
