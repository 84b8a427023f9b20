"""The loops under way: positions between two turns, and the position where a resumed run begins."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..compiler.ir import Call
from ..compiler.plan import Acquire, CallStep, LoopStep, Plan, Release, Step
from ..contract.node import Unkept
from ..resume.position import LoopLevel, Position, Positions, Start, StateKey
from .arguments import Environment
from .context import Context
from .loop_under_way import LoopUnderWay, States, begun, resumed


class LoopStack:
    """The loops under way of one executor.

    Args:
        plan: The plan.
        calls: Its calls by path.
        run: The run that restored states receive.
        positions: Hears of each place between two turns; None if nobody does.
        start: Where the run begins; None for its first step, and once it is there.

    Attributes:
        outer: The states of nodes outside of loops.
        under_way: The loops under way, the outermost first.
    """

    def __init__(
        self, plan: Plan, calls: Mapping[str, Call], run: Context, positions: Positions | None, start: Start | None
    ) -> None:
        self.plan, self.calls, self.run, self.positions, self.start = plan, calls, run, positions, start
        self.under_way: list[LoopUnderWay] = []
        self.outer: States = {}
        self._levels = list(start.position.levels) if start is not None else []  # those that have not begun again

    def begin(self, environment: Environment) -> None:
        """Restore the values and the states outside of loops."""
        if self.start is not None:
            environment.update(self.start.position.values)
            self._restore(self.start.position.states, self.outer)
            self._forget_start()
        elif self.positions is not None:
            self.positions.reached(Position((), {}, {}))

    def begin_loop(self, step: LoopStep, environment: Environment, turns: int | None, partial: bool) -> LoopUnderWay:
        """A loop before its first turn, or as it was under way. See `begun` for the arguments and errors."""
        if not self._levels:
            return begun(step, environment, turns, partial)
        level = self._levels.pop(0)
        loop = resumed(step, environment, level, inside=bool(self._levels))
        self._restore(level.states, loop.states)
        self._forget_start()
        return loop

    def _forget_start(self) -> None:
        """Free the values of the place where the run began once it is there."""
        if not self._levels:
            self.start = None

    def _restore(self, snapshots: Mapping[StateKey, Any], states: States) -> None:
        """Make states again from their snapshots."""
        for (id, name), snapshot in snapshots.items():
            states[id, name] = made = self.calls[id].type.states[name]()
            made.restore(snapshot, self.run)

    def to_take(self, steps: tuple[Step, ...]) -> tuple[Step, ...]:
        """The steps of a level that run: all, or those from the loop on that was under way.

        Of those before it, the calls whose values no file holds, and the components that these or the rest need.
        """
        if not self._levels:
            return steps
        assert self.start is not None
        first, again = self._levels[0].step, self.start.again

        def called(step: Step) -> bool:
            return isinstance(step, CallStep) and step.call.id in again

        taken: list[Step] = []
        releases: list[Release] = []
        for number, step in enumerate(steps[:first]):
            if isinstance(step, Acquire):
                release = Release(step.holder, step.part)
                end = steps.index(release, number)
                if end >= first or any(map(called, steps[number:end])):
                    releases.append(release)
                    taken.append(step)
            elif called(step) or step in releases:
                taken.append(step)
        return (*taken, *steps[first:])

    def between_turns(self, environment: Environment) -> None:
        """Tell about this place between two turns of the innermost loop, with everything that is alive."""
        if self.positions is None or self._levels:  # a resumed run is at a place once all its loops are under way
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
        levels, steps = [], self.plan.steps
        for each, kept in zip(self.under_way, snapshots[1:], strict=True):
            levels.append(_level(each, steps, kept, each is not innermost))
            steps = each.step.body
        self.positions.reached(Position(tuple(levels), snapshots[0], dict(environment)))

    @property
    def turns(self) -> tuple[int, ...]:
        """The turn of each loop under way."""
        return tuple(each.turn for each in self.under_way)


def _level(loop: LoopUnderWay, steps: tuple[Step, ...], snapshots: Mapping[StateKey, Any], inside: bool) -> LoopLevel:
    """A loop as a part of a position. `steps`: those of its level. `inside`: a turn is under way."""
    return LoopLevel(
        loop.step.loop.id,
        next(number for number, step in enumerate(steps) if step is loop.step),
        loop.turn,
        loop.total,
        snapshots,
        {name: (values, len(values)) for name, values in loop.collected.items()},
        {name: loop.over[name][loop.turn + inside :] for name in loop.gone},
    )
