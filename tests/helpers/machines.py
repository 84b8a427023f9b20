"""Node types and graphs for the tests of the passes and the executor, without files and without torch.

A `Cell` is a number that only nodes make; a `Machine` has parts that must be in memory while they are read. `LOG` lists
all events in order. `naive` evaluates a graph by recursion, without any pass.
"""

from __future__ import annotations

import enum
import sys
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, NamedTuple

from pydantic import Field
from sgd.graph.compiler.compile import compile_graph
from sgd.graph.compiler.ir import (
    Arg,
    Call,
    Const,
    Format,
    Graph,
    Index,
    Item,
    Items,
    Loop,
    Ref,
    Source,
    Var,
    used,
    verify,
)
from sgd.graph.compiler.passes.hoist import hoist
from sgd.graph.compiler.passes.lifetimes import lifetimes
from sgd.graph.compiler.passes.merge import merge
from sgd.graph.compiler.passes.order import order
from sgd.graph.compiler.passes.parts import components, parts
from sgd.graph.compiler.passes.prune import prune
from sgd.graph.compiler.plan import Plan
from sgd.graph.contract.events import CallInfo, LoopInfo, Observer, Observers
from sgd.graph.contract.node import ALL, Here, OutPath, Passes, Reads, Run, State, Wanted, node
from sgd.graph.contract.ports import Port
from sgd.graph.language.library_objects import standard_object
from sgd.graph.language.registry import Library
from sgd.graph.runtime.context import Context
from sgd.graph.runtime.execute import Executor
from sgd.graph.runtime.failure import Interrupted, NodeFailed

LOG: list[tuple[str, ...]] = []


@dataclass(eq=False)
class Cell(Port):
    """A whole number on an edge. Each instance is a separate object, so tests can watch when it is freed."""

    value: int

    def facts(self) -> dict[str, Any]:
        return {"shape": [1], "dtype": "whole", "value": self.value}


@dataclass
class Core:
    """The state that machines made from one another share: the number of holders of each part in memory."""

    name: str
    held: dict[str, int] = field(default_factory=dict)


@dataclass(eq=False)
class Machine(Port):
    """A value with parts. Reading a part that is not in memory is an error."""

    partial: ClassVar[bool] = True
    NAMES: ClassVar[tuple[str, ...]] = ("encoder", "painter", "decoder")
    core: Core
    tuned: int = 0

    def parts(self) -> tuple[str, ...]:
        return self.NAMES

    def acquire(self, part: str, run: Run) -> None:
        if part not in self.NAMES:
            raise KeyError(part)
        LOG.append(("acquire", self.core.name, part))
        self.core.held[part] = self.core.held.get(part, 0) + 1

    def prefetch(self, part: str, run: Run) -> None:
        pass

    def release(self, part: str) -> None:
        LOG.append(("release", self.core.name, part))
        assert self.core.held.get(part, 0) > 0, f"{part} of {self.core.name} is released but not held"
        self.core.held[part] -= 1

    def read(self, part: str) -> None:
        assert self.core.held.get(part, 0) > 0, f"{part} of {self.core.name} is read but not held"
        LOG.append(("read", self.core.name, part))


class Halves(NamedTuple):
    """Two outputs."""

    low: Cell
    high: Cell


class Total(State):
    """A sum that grows from turn to turn."""

    def __init__(self) -> None:
        self.sum = 0
        LOG.append(("begin",))

    def end(self) -> None:
        LOG.append(("end",))

    def snapshot(self) -> int:
        return self.sum

    def restore(self, snapshot: int, run: Run) -> None:
        self.sum = snapshot


@node("m.const")
def const(value: int) -> Cell:
    """A number."""
    return Cell(value)


@node("m.add")
def add(a: Cell, b: Cell) -> Cell:
    """A sum, not symmetric."""
    return Cell((a.value * 3 + b.value) % 1009)


@node("m.scale")
def scale(a: Cell, by: Annotated[int, Field(ge=-100, le=100)] = 2) -> Cell:
    """A multiple."""
    return Cell(a.value * by % 1009)


@node("m.split")
def split(a: Cell) -> Halves:
    """Two numbers from one."""
    return Halves(Cell(a.value % 7), Cell(a.value // 7))


@node("m.join")
def join(cells: list[Cell]) -> Cell:
    """One number from many."""
    total = len(cells)
    for cell in cells:
        total = (total * 5 + cell.value) % 1009
    return Cell(total)


@node("m.parse")
def parse(text: str) -> Cell:
    """The number of a text."""
    return Cell(sum(map(ord, text)))


@node("m.plain")
def plain(a: Cell) -> int:
    """A plain value over an edge."""
    return a.value


@node("m.count")
def count(a: Cell, total: Total) -> Cell:
    """A running sum over the turns of a loop."""
    total.sum += a.value + 1
    return Cell(total.sum % 1009)


@node("m.numbers")
def numbers(count: int = 3) -> list[int]:
    """A list of plain values."""
    return list(range(count))


@node("m.cells")
def cells(count: int = 3) -> list[Cell]:
    """A list of values."""
    return [Cell(n) for n in range(count)]


class Colour(enum.Enum):
    """A choice."""

    RED = "red"
    BLUE = "blue"


@node("m.kinds")
def kinds(file: Path | None = None, files: list[Path] | None = None, colours: list[Colour] | None = None) -> str:
    """The arguments as Python values, in text."""
    return repr([file, files, colours])


@node("m.here")
def here(a: Cell, here: Here) -> str:
    """The path of the node."""
    return str(here)


@node("m.wanted")
def wanted(machine: Annotated[Machine, Passes()], wanted: Wanted) -> Machine:
    """The machine; logs the parts that other nodes want."""
    LOG.append(("wanted", *sorted(wanted)))
    return machine


@node("m.save", effect=True)
def save(a: Cell, run: Run, path: OutPath = Path("cell.txt")) -> Path:
    """Write a number to a file."""
    target = run.output(path)
    target.write_text(f"{a.value}\n")
    return target


@node("m.fail")
def fail(a: Cell, at: int = 0) -> Cell:
    """Fail at one value."""
    if a.value == at:
        raise RuntimeError("out of luck")
    return Cell(a.value)


@node("m.machine")
def machine(name: str = "machine") -> Machine:
    """A machine."""
    return Machine(Core(name))


@node("m.tune")
def tune(machine: Annotated[Machine, Passes()], to: int = 1) -> Machine:
    """Another machine that shares its parts."""
    return Machine(machine.core, to)


@node("m.encode")
def encode(machine: Annotated[Machine, Reads("encoder")], text: str = "") -> Cell:
    """Reads the encoder."""
    machine.read("encoder")
    return Cell(sum(map(ord, text)) + machine.tuned)


@node("m.paint")
def paint(machine: Annotated[Machine, Reads("painter")], a: Cell) -> Cell:
    """Reads the painter."""
    machine.read("painter")
    return Cell(a.value + 1 + machine.tuned)


@node("m.decode")
def decode(machine: Annotated[Machine, Reads("decoder")], a: Cell) -> Cell:
    """Reads the decoder."""
    machine.read("decoder")
    return Cell(a.value * 2)


@node("m.whole")
def whole(machine: Machine) -> Cell:
    """Reads every part."""
    for part in machine.NAMES:
        machine.read(part)
    return Cell(len(machine.NAMES))


@node("m.fleet")
def fleet(machines: Annotated[list[Machine], Reads("painter")]) -> Cell:
    """Reads the painter of several machines."""
    for one in machines:
        one.read("painter")
    return Cell(len(machines))


def library() -> Library:
    """These node types and no others."""
    found = Library()
    found.add("machines", sys.modules[__name__])
    # The schema of records includes the sections of the standard library.
    found.libraries["sgd"] = standard_object()
    return found


TYPES = library().nodes


__all__ = ["Interrupted", "NodeFailed", "Path", "used"]


def arg(value: Any) -> Arg:
    """An argument from a source or a literal; `$name` and `$name:port` are references."""
    if isinstance(value, Arg):
        return value
    if isinstance(value, str) and value.startswith("$"):
        id, _, port = value[1:].partition(":")
        return Arg(Ref(id, port or "cell"))
    return Arg(value if isinstance(value, Source) else Const(value))


def call(id: str, type: str, **args: Any) -> Call:
    return Call(id, TYPES[type], {n: arg(v) for n, v in args.items()}, names=(id,))


def loop(id: str, over: Mapping[str, Any], body: Graph, **carry: Any) -> Loop:
    starts = {n: arg(v) for n, v in carry.items()}
    return Loop(id, {n: arg(v) for n, v in over.items()}, starts, body, mapping=not carry)


def graph(*items: Item, **outputs: Any) -> Graph:
    return Graph({item.id: item for item in items}, {n: arg(v) for n, v in outputs.items()})


PASSES = ("prune", "parts", "hoist", "merge")


def compiled(graph: Graph, passes: tuple[str, ...] = PASSES) -> tuple[Graph, Mapping[str, Any]]:
    """The graph after some of the passes, always ordered; verified after each."""
    known = {"prune": prune, "parts": lambda g: parts(g, {}), "hoist": hoist, "merge": merge}
    for name in passes:
        graph = verify(known[name](graph), name)
    needs = components(graph, {})
    return verify(order(graph, needs), "order", ordered=True), needs


def plan_of(graph: Graph, passes: tuple[str, ...] | None = None) -> Plan:
    names = {i.id: "loop" if isinstance(i, Loop) else i.type.name for i, _ in graph.walk()}
    done, needs = compile_graph(graph) if passes is None else compiled(graph, passes)
    return Plan("test", lifetimes(done, needs), done.outputs, names=names, loaded=(standard_object(),))


class Watch(Observer):
    """Writes the executor's events to `LOG`."""

    def node_started(self, call: CallInfo, arguments: Mapping[str, Any]) -> None:
        LOG.append(("started", call.id))

    def node_finished(self, call: CallInfo, seconds: float, outputs: Mapping[str, Any]) -> None:
        LOG.append(("finished", call.id))

    def loop_started(self, loop: LoopInfo, turns: int) -> None:
        LOG.append(("loop", loop.id))

    def loop_finished(self, loop: LoopInfo) -> None:
        LOG.append(("looped", loop.id))


def execute(plan: Plan, out: Path = Path("."), observer: Observer | None = None, **options: Any) -> dict[str, Any]:
    """Run a plan without a record; clears `LOG` first."""
    LOG.clear()
    observers = Observers([Watch(), *([observer] if observer else [])])
    return Executor(plan, Context(out, observers), observers, **options).execute()


class StopAfter(Observer):
    """Asks the run to stop when this many nodes have started."""

    def __init__(self, nodes: int) -> None:
        self.left, self.asked = nodes, threading.Event()

    def node_started(self, call: CallInfo, arguments: Mapping[str, Any]) -> None:
        self.left -= 1
        if self.left < 0:
            self.asked.set()


def numbers_of(value: Any) -> Any:
    """Outputs as plain values that can be compared."""
    if isinstance(value, Mapping):
        return {n: numbers_of(v) for n, v in value.items()}
    if isinstance(value, list | tuple):
        return [numbers_of(v) for v in value]
    return value.value if isinstance(value, Cell) else value


class Naive:
    """Evaluates one level of a graph without passes; an item runs when its value is first needed."""

    def __init__(self, graph: Graph, above: Naive | None = None, bound: Mapping[Source, Any] | None = None) -> None:
        self.graph, self.above, self.bound = graph, above, dict(bound or {})
        self.made: dict[str, dict[str, Any]] = {}
        self.states: dict[str, Any] = {}

    def value(self, source: Source) -> Any:
        if isinstance(source, Const):
            return source.value
        if isinstance(source, Format):
            return "".join(p if isinstance(p, str) else str(self.value(p)) for p in source.parts)
        if isinstance(source, Items):
            return [self.value(i) for i in source.items]
        if isinstance(source, Ref) and source.node in self.graph.items:
            if source.node not in self.made:
                self.made[source.node] = self.run(self.graph.items[source.node])
            return self.made[source.node][source.port]
        if source in self.bound:
            return self.bound[source]
        assert self.above is not None
        return self.above.value(source)

    def run(self, item: Item) -> dict[str, Any]:
        if isinstance(item, Call):
            return self.call(item)
        over = {n: list(self.value(a.source)) for n, a in item.over.items()}
        state = {n: self.value(a.source) for n, a in item.carry.items()}
        collected: dict[str, list[Any]] = {n: [] for n in item.body.outputs}
        states: dict[str, Any] = {}
        for turn in range(len(next(iter(over.values())))):
            bound: dict[Source, Any] = {Var(item.id, n): v[turn] for n, v in over.items()}
            bound |= {Var(item.id, n): v for n, v in state.items()}
            inside = Naive(item.body, self, bound | {Index(item.id): turn})
            inside.states = states
            for id, each in item.body.items.items():
                if id not in inside.made:
                    inside.made[id] = inside.run(each)
            after = {n: inside.value(a.source) for n, a in item.body.outputs.items()}
            state = after
            for n, v in after.items():
                collected[n].append(v)
        return collected if item.mapping else state

    def call(self, item: Call) -> dict[str, Any]:
        arguments = {}
        for name, given in item.args.items():
            value = self.value(given.source)
            if item.type.inputs[name].type.kind == "list" and not isinstance(value, list):
                value = [value]
            arguments[name] = value
            for part in Machine.NAMES:  # everything is in memory here
                for one in value if isinstance(value, list) else [value]:
                    if isinstance(one, Machine):
                        one.core.held[part] = 1
        for name, asked in item.type.supplied.items():
            arguments[name] = Here(item.id) if asked == "here" else Wanted({ALL})
        for name, state in item.type.states.items():
            arguments[name] = self.states.setdefault(item.id, state())
        result = item.type.function(**arguments)
        if item.type.tuple_result:
            return dict(result._asdict())
        return {item.type.outputs[0].name: result}


def naive(graph: Graph) -> dict[str, Any]:
    """The outputs of a graph, evaluated without passes."""
    LOG.clear()
    root = Naive(graph)
    return {n: numbers_of(root.value(a.source)) for n, a in graph.outputs.items()}


def levels(graph: Graph) -> Iterator[Graph]:
    yield graph
    for item, _ in graph.walk():
        if isinstance(item, Loop):
            yield item.body
