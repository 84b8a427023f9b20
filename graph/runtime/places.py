"""Places between two turns of loops: where the executor tells that it is at one, and where a resumed run begins."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ..compiler.ir import Call, Ref, edges
from ..compiler.plan import Acquire, CallStep, LoopStep, Plan, Release, Step
from ..contract.node import Run, State, Unkept
from ..resume.position import FinishedEffect, LoopLevel, Position, Positions, Start, StateKey
from .arguments import Environment

States = dict[StateKey, State]


@dataclass
class LoopUnderWay:
    """A loop at work. `turn` is the number of turns that are over."""

    step: LoopStep
    number: int
    total: int
    over: Mapping[str, list[Any]]
    collected: dict[str, list[Any]]
    states: States
    turn: int = 0

    def level(self, snapshots: Mapping[StateKey, Any], inside: bool) -> LoopLevel:
        """The loop as a part of a position. `inside`: a turn is under way."""
        return LoopLevel(
            self.step.loop.id,
            self.number,
            self.turn,
            self.total,
            snapshots,
            {name: (values, len(values)) for name, values in self.collected.items()},
            {name: self.over[name][self.turn + inside :] for name in self.gone},
        )

    @cached_property
    def gone(self) -> tuple[str, ...]:
        """The loop variables whose source was freed when the loop began."""
        freed = set(self.step.free_first)
        return tuple(name for name, arg in self.step.loop.over.items() if not freed.isdisjoint(edges([arg])))


class Places:
    """The loops under way of one executor.

    Args:
        plan: The plan.
        run: The run that restored states receive.
        positions: Hears of each place between two turns; None if nobody does.
        start: Where the run begins; None for its first step.

    Attributes:
        outer: The states of nodes outside of loops.
    """

    def __init__(self, plan: Plan, run: Run, positions: Positions | None = None, start: Start | None = None) -> None:
        self.plan, self.run, self.positions, self.start = plan, run, positions, start
        self.under_way: list[LoopUnderWay] = []
        self.outer: States = {}

    @cached_property
    def calls(self) -> dict[str, CallStep]:
        """The steps of calls by their paths."""
        return {step.call.id: step for step, _ in self.plan.walk() if isinstance(step, CallStep)}

    def begin(self, environment: Environment) -> tuple[LoopLevel, ...]:
        """Restore the values and the states outside of loops. Returns the loops that were under way."""
        if self.start is None:
            return ()
        position = self.start.position
        environment.update(position.values)
        self.restore(position.states, self.outer)
        return position.levels

    def restore(self, snapshots: Mapping[StateKey, Any], states: States) -> None:
        """Make states again from their snapshots."""
        for (id, name), snapshot in snapshots.items():
            states[id, name] = made = self.calls[id].call.type.states[name]()
            made.restore(snapshot, self.run)

    def to_take(self, steps: tuple[Step, ...], first: int) -> Iterator[tuple[int, Step]]:
        """The steps of a level from the number `first` on.

        Of those before it, the calls whose values no file holds, and the components that these or the rest need.
        """
        again = self.start.again if self.start is not None else frozenset()

        def called(step: Step) -> bool:
            return isinstance(step, CallStep) and step.call.id in again

        taken: list[Release] = []
        for number, step in enumerate(steps[:first]):
            if isinstance(step, Acquire):
                release = Release(step.holder, step.part)
                end = steps.index(release, number)
                if end >= first or any(map(called, steps[number:end])):
                    taken.append(release)
                    yield number, step
            elif called(step) or step in taken:
                yield number, step
        yield from enumerate(steps[first:], first)

    def between_turns(self, environment: Environment) -> None:
        """Tell about this place between two turns of the innermost loop, with everything that is alive."""
        if self.positions is None:
            return
        innermost = self.under_way[-1]
        snapshots = []
        for states in (self.outer, *(each.states for each in self.under_way)):
            found = {key: state.snapshot() for key, state in states.items()}
            unkept = next((each for each in found.values() if isinstance(each, Unkept)), None)
            if unkept is not None:
                self.positions.unkept(innermost.step.loop.id, innermost.turn, unkept.reason)
                return
            snapshots.append(found)
        pairs = zip(self.under_way, snapshots[1:], strict=True)
        levels = tuple(each.level(found, each is not innermost) for each, found in pairs)
        self.positions.reached(Position(levels, snapshots[0], dict(environment)))

    def effect_finished(self, call: Call, outputs: Mapping[str, Any], files: tuple[Path, ...]) -> None:
        """Tell that a call with an effect has written its files."""
        if self.positions is not None:
            self.positions.effect_finished(FinishedEffect(call.id, self._turns(), outputs, files))

    def finished_before(self, step: CallStep, environment: Environment) -> bool:
        """Whether an effect was finished before the run was resumed. Then its outputs are put into the environment."""
        effects = self.start.effects if self.start is not None else {}
        found = effects.get((step.call.id, self._turns())) if effects else None
        if found is None:
            return False
        environment.update({Ref(step.call.id, port): value for port, value in found.outputs.items()})
        return True

    def _turns(self) -> tuple[int, ...]:
        return tuple(each.turn for each in self.under_way)
