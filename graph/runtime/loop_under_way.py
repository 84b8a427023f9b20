"""A loop at work: the values that it iterates over, those that it carries, and its results."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Any

from ..compiler.ir import Index, Ref, Var, edges, output_ports
from ..compiler.plan import LoopStep
from ..contract.errors import NodeError
from ..contract.node import State
from ..resume.position import LoopLevel, StateKey
from .arguments import Environment, Getter, getter
from .arriving_values import Arriving

States = dict[StateKey, State]


@dataclass(eq=False)
class LoopUnderWay:
    """A loop at work.

    Attributes:
        step: Its step of the plan.
        total: The number of its turns.
        over: The values of its variables by turn, in lists that the loop owns.
        collected: The results of its turns so far, of a mapping loop.
        states: The states of its nodes.
        turn: The number of turns that are over.
        resumed: It had begun in the run that goes on.
        inside: A turn was under way in the position where the run goes on, so that its variables are set.
    """

    step: LoopStep
    total: int
    over: Mapping[str, list[Any]]
    collected: dict[str, list[Any]]
    states: States
    turn: int = 0
    resumed: bool = False
    inside: bool = False

    @cached_property
    def gone(self) -> tuple[str, ...]:
        """The loop variables whose source was freed when the loop began."""
        freed = set(self.step.free_first)
        return tuple(name for name, arg in self.step.loop.over.items() if not freed.isdisjoint(edges([arg])))

    @cached_property
    def index(self) -> Index:
        """The key of the number of the turn."""
        return Index(self.step.loop.id)

    @cached_property
    def variables(self) -> tuple[tuple[str, Var, list[Any]], ...]:
        """For each variable that it iterates over, its name, its key and its values."""
        return tuple((name, Var(self.step.loop.id, name), values) for name, values in self.over.items())

    @cached_property
    def yields(self) -> tuple[tuple[str, Var, Getter], ...]:
        """For each value that a turn yields, its name, the key of the carried variable, and how it is found."""
        loop = self.step.loop
        return tuple((name, Var(loop.id, name), getter(arg.source)) for name, arg in loop.body.outputs.items())

    @cached_property
    def made(self) -> tuple[Ref, ...]:
        """The keys of the values that a turn makes."""
        items = self.step.loop.body.items.items()
        return tuple(Ref(id, port) for id, item in items for port in output_ports(item))

    def remaining(self, most: int | None) -> Iterator[int]:
        """The numbers of the turns that are left, each once its values are there. `most`: the most turns in all."""
        for index in range(self.turn, self.total if most is None else min(self.total, most)):
            for values in self.over.values():
                if isinstance(values, Arriving):
                    values.wait(index)
            yield index

    def enter(self, index: int, environment: Environment) -> dict[str, Any]:
        """Set the variables of a turn, and return those that it iterates over, by name."""
        variables = {}
        for name, key, values in self.variables:
            if self.inside:
                variables[name] = environment.get(key)
            else:
                variables[name] = environment[key] = values[index]
        for *_, values in self.variables:  # several variables may share one `Arriving` list
            values[index] = None  # so that the body's last reader is the value's last reader
        environment[self.index] = index
        self.inside = False
        return variables

    def leave(self, index: int, environment: Environment) -> None:
        """Carry a turn's results to the next one, or append them to the loop's lists. Drop all other values."""
        after = [get(environment) for _, _, get in self.yields]
        for ref in self.made:
            environment.pop(ref, None)
        for (name, key, _), value in zip(self.yields, after, strict=True):
            if self.step.loop.mapping:
                self.collected[name].append(value)
            else:
                environment[key] = value
        self.turn = index + 1

    def finish(self, environment: Environment) -> None:
        """Put the loop's results into the environment, in place of its variables.

        The lists of a loop that ran only some of its turns have all entries: the last result is repeated.
        """
        loop = self.step.loop
        for name in (*loop.over, *loop.carry):
            value = environment.pop(Var(loop.id, name), None)
            if name in loop.carry:
                environment[Ref(loop.id, name)] = value
        environment.pop(self.index, None)
        for name, values in self.collected.items():
            environment[Ref(loop.id, name)] = values + values[-1:] * (self.total - len(values))


def begun(step: LoopStep, environment: Environment, turns: int | None, partial: bool) -> LoopUnderWay:
    """A loop before its first turn; the variables that it carries are set.

    Args:
        step: Its step of the plan.
        environment: All values.
        turns: At most this many turns run; None for all.
        partial: Values of calls that do not run are None (for planning).

    Raises:
        NodeError: If there is nothing to loop over, or lists that advance together differ in length.
    """
    over, total = _over(step, environment, turns, partial, None)
    for name, arg in step.loop.carry.items():
        environment[Var(step.loop.id, name)] = getter(arg.source)(environment)
    collected: dict[str, list[Any]] = {name: [] for name in step.loop.body.outputs} if step.loop.mapping else {}
    return LoopUnderWay(step, total, over, collected, {})


def resumed(step: LoopStep, environment: Environment, level: LoopLevel, inside: bool) -> LoopUnderWay:
    """A loop as it was under way, without its states. `inside`: a turn was under way too."""
    over, total = _over(step, environment, None, False, level)
    collected = {name: list(values) for name, (values, _) in level.collected.items()}
    return LoopUnderWay(step, total, over, collected, {}, level.turn, resumed=True, inside=inside)


def _over(
    step: LoopStep, environment: Environment, turns: int | None, partial: bool, level: LoopLevel | None
) -> tuple[dict[str, list[Any]], int]:
    """The values that a loop iterates over, as lists that the loop owns, and the number of turns.

    The lists hold the values of the turns that run, which are few while planning. `level` holds the values whose source
    is gone.
    """
    over: dict[str, list[Any]] = {}
    lengths: dict[str, int] = {}
    unknown = []
    for name, arg in step.loop.over.items():
        if level is not None and name in level.over:
            lengths[name] = level.total
            kept = level.over[name]
            over[name] = [None] * (level.total - len(kept)) + list(kept)
            continue
        value = getter(arg.source)(environment)
        if value is None and partial:
            unknown.append(name)
            continue
        try:
            lengths[name] = len(value) if hasattr(value, "__len__") else len(value := list(value))
            over[name] = value if isinstance(value, Arriving) else list(islice(value, turns))
        except TypeError:
            raise _bad_loop(step, f"`{name}` is not a list: {type(value).__name__}") from None
    counts = set(lengths.values()) or {1}
    if len(counts) > 1 or not min(counts):
        text = ", ".join(f"`{n}` has {length} entries" for n, length in lengths.items())
        differ = "lists that advance together differ in length"
        raise _bad_loop(step, f"{differ if min(counts) else 'nothing to loop over'}: {text}")
    total = min(counts)
    return over | {name: [None] * total for name in unknown}, total


def _bad_loop(step: LoopStep, why: str) -> NodeError:
    span = step.loop.span
    where = f"\n --> {span.file}:{span.line}:{span.column}" if span else ""
    return NodeError(f"loop {step.loop.id}: {why}{where}")
