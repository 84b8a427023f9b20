"""Node types without torch, for the tests of the language, the compiler and the executor.

Import it as `from helpers import toys`, or give the file to `sgd --library`.
A `Thing` is a number that only nodes can make; `Ticks` is a value to loop over, like a schedule.
"""

from __future__ import annotations

import enum
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, TypeVar

from pydantic import Field
from sgd.graph.contract.diagnostics import Diagnostic
from sgd.graph.contract.errors import NodeError
from sgd.graph.contract.facts import Facts, NodeFacts
from sgd.graph.contract.node import Here, OutPath, Passes, Reads, Run, Source, State, Wanted, node
from sgd.graph.contract.ports import Port
from sgd.graph.language.registry import Library, standard

T = TypeVar("T")


@dataclass(frozen=True)
class Thing(Port):
    """A number on an edge."""

    value: float

    def facts(self) -> dict[str, Any]:
        return {"value": self.value}


@dataclass(frozen=True)
class Gadget(Port):
    """Something that is not a `Thing`."""

    name: str = ""


@dataclass(frozen=True)
class FineGadget(Gadget):
    """A `Gadget` and more."""


@dataclass(frozen=True)
class Tick(Port):
    """One turn of `Ticks`."""

    number: int
    total: int


@dataclass(frozen=True)
class Ticks(Port):
    """A value to loop over."""

    item: ClassVar[type[Port] | None] = Tick
    count: int

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Tick]:
        return (Tick(n, self.count) for n in range(self.count))


@dataclass(frozen=True)
class Box(Port):
    """A value with parts that must be loaded; `log` lists its events in order."""

    partial: ClassVar[bool] = True
    name: str = "box"
    log: tuple[list[str], ...] = ()

    def record(self, event: str) -> None:
        for log in self.log:
            log.append(f"{event} {self.name}")

    def parts(self) -> tuple[str, ...]:
        return ("lid", "floor")

    def acquire(self, part: str, run: Run) -> None:
        self.record(f"acquire {part} of")

    def prefetch(self, part: str, run: Run) -> None:
        self.record(f"prefetch {part} of")

    def release(self, part: str) -> None:
        self.record(f"release {part} of")


class Level(enum.Enum):
    """An enumeration as Python writes it."""

    LOW = "low"
    HIGH = "high"


class Pair(NamedTuple):
    """Two outputs."""

    left: Thing
    right: Thing


@node("toy.number")
def number(value: float = 0.0) -> Thing:
    """A number from the file.

    Args:
        value: The number.
    """
    return Thing(value)


@node("toy.add")
def add(a: Thing, b: Thing, *, times: Annotated[int, Field(ge=1)] = 1) -> Thing:
    """The sum of two things.

    Args:
        a: The first.
        b: The second.
        times: Number of times to add the second thing.
    """
    return Thing(a.value + times * b.value)


@node("toy.sum")
def sum_(things: list[Thing]) -> Thing:
    """The sum of any number of things.

    Args:
        things: The things to add.
    """
    return Thing(sum(t.value for t in things))


@node("toy.pair")
def pair(thing: Thing) -> Pair:
    """A thing and its opposite.

    Args:
        thing: The thing.
    """
    return Pair(thing, Thing(-thing.value))


@node("toy.gadget")
def gadget(name: str = "") -> Gadget:
    """A gadget.

    Args:
        name: Its name.
    """
    return Gadget(name)


@node("toy.fine_gadget")
def fine_gadget() -> FineGadget:
    """A finer gadget."""
    return FineGadget("fine")


@node("toy.rename")
def rename(gadget: Gadget, name: str) -> Gadget:
    """A gadget of another name.

    Args:
        gadget: The gadget.
        name: Its new name.
    """
    return Gadget(name)


@dataclass(frozen=True)
class TicksFacts(Facts):
    """Facts of a `Ticks`: the number of turns."""

    steps: int | None = None


@dataclass(frozen=True, kw_only=True)
class ToyTicksFacts(NodeFacts):
    """Facts of `toy.ticks`."""

    count: int | None = None


def describe_ticks(facts: ToyTicksFacts) -> TicksFacts | None:
    return TicksFacts(facts.count) if facts.count is not None else None


@node("toy.ticks", describe=describe_ticks)
def ticks(count: Annotated[int, Field(ge=1, le=1000)] = 3) -> Ticks:
    """A value to loop over.

    Args:
        count: Number of turns.
    """
    return Ticks(count)


@node("toy.step")
def step(tick: Tick, thing: Thing, *, by: float = 1.0) -> Thing:
    """One turn: the thing and a little more.

    Args:
        tick: The turn.
        thing: The state.
        by: The number to add.
    """
    return Thing(thing.value + by)


@node("toy.turn")
def turn(tick: Tick) -> int:
    """The number of a turn.

    Args:
        tick: The turn.
    """
    return tick.number


@node("toy.plain")
def plain(
    text: str = "",
    whole: Annotated[int, Field(ge=0, le=10)] = 1,
    ratio: Annotated[float, Field(gt=0)] = 0.5,
    flag: bool = False,
    mode: Literal["fast", "slow"] = "fast",
    level: Level = Level.LOW,
    names: list[str] | None = None,
    sizes: list[int] | None = None,
    modes: list[Literal["fast", "slow"]] | None = None,
    maybe: int | None = None,
    file: Path | None = None,
    files: list[Path] | None = None,
    source: Source = "",
) -> Thing:
    """A parameter of every plain type.

    Args:
        text: A string.
        whole: A whole number from 0 to 10.
        ratio: A number above 0.
        flag: Yes or no.
        mode: One of two.
        level: One of two, as an enumeration.
        names: Strings.
        sizes: Whole numbers.
        modes: Some of two.
        maybe: A number or nothing.
        file: A file to read.
        files: Files to read.
        source: A folder, or a name elsewhere.
    """
    plain.seen.append(dict(locals()))  # type: ignore[attr-defined]
    return Thing(whole)


plain.seen = []  # type: ignore[attr-defined]


@node("toy.need")
def need(text: str, *, count: int | None = 3) -> str:
    """A required parameter.

    Args:
        text: The text.
        count: A number; nothing means no number.
    """
    return text


@node("toy.words")
def words(text: str = "a b") -> list[str]:
    """The words of a text.

    Args:
        text: The text.
    """
    return text.split()


@node("toy.things")
def things(count: int = 2) -> list[Thing]:
    """Several things.

    Args:
        count: How many.
    """
    return [Thing(float(n)) for n in range(count)]


@node("toy.choose")
def choose(above: T, below: T, *, high: bool = True) -> T:
    """One of two values of one type.

    Args:
        above: The one.
        below: The other.
        high: Take `above`.
    """
    return above if high else below


@node("toy.maybe")
def maybe(thing: Thing | None = None) -> Thing:
    """A thing that may be missing.

    Args:
        thing: The thing.
    """
    return thing or Thing(0.0)


class Count(State):
    """Number of calls of a node in its loop; `ended` counts the loops that ended."""

    ended: ClassVar[int] = 0

    def __init__(self) -> None:
        self.calls = 0

    def end(self) -> None:
        type(self).ended += 1


@node("toy.count")
def count(thing: Thing, state: Count, here: Here) -> int:
    """The number of calls of this node in its loop.

    Args:
        thing: Anything.
    """
    state.calls += 1
    return state.calls


@node("toy.save", effect=True)
def save(thing: Thing, run: Run, *, path: OutPath = Path("thing.txt")) -> Path:
    """Write a thing to a file.

    Args:
        thing: The thing.
        path: Path of the file.
    """
    target = run.output(path)
    if not run.planning:
        target.write_text(f"{thing.value:g}\n")
    return target


@node("toy.fail")
def fail(thing: Thing, *, message: str = "it broke") -> Thing:
    """Fail.

    Args:
        thing: Anything.
        message: Text of the error.
    """
    raise NodeError(message, help="remove the node")


@node("toy.box")
def box(name: str = "box") -> Box:
    """A box with parts.

    Args:
        name: Its name.
    """
    return Box(name, BOX_LOG)


BOX_LOG: tuple[list[str], ...] = ([],)


@node("toy.wrap")
def wrap(box: Annotated[Box, Passes()], *, name: str = "wrapped") -> Box:
    """A box around the same parts.

    Args:
        box: The box.
        name: Its name.
    """
    return Box(name, box.log)


@node("toy.open")
def open_(box: Annotated[Box, Reads("lid")]) -> Thing:
    """Read the lid of a box.

    Args:
        box: The box.
    """
    box.record("read lid of")
    return Thing(1.0)


@dataclass(frozen=True, kw_only=True)
class ToyEmptyFacts(NodeFacts):
    """Facts of `toy.empty`."""

    box: Facts = Facts()
    deep: bool | None = None


def empty_reads(facts: ToyEmptyFacts) -> Mapping[str, list[str]]:
    return {"box": ["lid"]} if facts.deep is False else {}


@node("toy.empty", reads=empty_reads)
def empty(box: Annotated[Box, Reads("lid", "floor")], *, deep: bool = True) -> Thing:
    """Read the lid of a box, and the floor if `deep` is true.

    Args:
        box: The box.
        deep: Read the floor too.
    """
    box.record("read all of")
    return Thing(2.0)


@node("toy.parts")
def parts(box: Box, wanted: Wanted) -> Thing:
    """The number of output parts that other nodes want.

    Args:
        box: The box.
    """
    return Thing(len(wanted))


@dataclass(frozen=True, kw_only=True)
class ToyBackendFacts(NodeFacts):
    """Facts of `toy.backend`."""

    thing: Facts = Facts()
    backend: str | None = None
    masked: bool | None = None
    count: int | None = None


def backend_problems(facts: ToyBackendFacts) -> Iterator[Diagnostic]:
    if facts.backend == "hyper":
        message = "backend hyper is not installed"
        yield Diagnostic("unavailable", message, "backend", help="install it, or use `plain`")
    if facts.backend == "quick" and facts.masked:
        message = "backend quick takes no mask, and this node needs one"
        yield Diagnostic("unsupported", message, "backend", help="use `plain`, or `masked: false`")
    if facts.masked and facts.count is not None and facts.count > 100:
        yield Diagnostic("bad-value", "a mask over more than 100 is slow", "count", severity="warning")


@node("toy.backend", check=backend_problems)
def backend(
    thing: Thing, *, backend: Literal["plain", "quick", "hyper"] = "plain", masked: bool = False, count: int = 1
) -> Thing:
    """A node whose check finds backends that cannot work.

    Args:
        thing: Anything.
        backend: The backend.
        masked: Whether there is a mask.
        count: How many.
    """
    return thing


def library() -> Library:
    """The standard library and the toys."""
    found = standard()
    found.add("toys", sys.modules[__name__])
    return found
