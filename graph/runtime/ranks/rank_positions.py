"""The positions of a run in several processes: all ranks reach them together, and each keeps its part of the states."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from ...compiler.plan import CallStep, Plan
from ...contract.processes import Processes
from ...resume.keeper import Keeper
from ...resume.position import FinishedEffect, Position, StateKey


class RankPositions:
    """Receives the positions of this rank's executor.

    The ranks keep positions between two turns of a loop that they compute together. Values and most states are equal on
    all ranks, so only rank 0 keeps them. The other ranks keep only states of which each rank has a part.

    Args:
        keeper: Writes positions.
        plan: The plan.
        processes: The processes.
        shared: The loops that the ranks compute together.
        number: The number of the last snapshot before this run; 0 if there is none.
    """

    def __init__(
        self, keeper: Keeper, plan: Plan, processes: Processes, shared: Collection[str], number: int = 0
    ) -> None:
        self.keeper, self.processes, self.shared, self.number = keeper, processes, shared, number
        self.first = processes.rank == 0
        self._has_parts = False
        steps = (step for step, _ in plan.walk())
        self._split = {
            step.call.id: step.call.type
            for step in steps
            if isinstance(step, CallStep) and step.call.type.processes == "split"
        }

    def reached(self, position: Position) -> None:
        keeper = self.keeper
        if not position.levels:
            if self.first:
                keeper.reached(position)
            return
        if position.levels[-1].loop not in self.shared:
            return
        divided = self._divided(position)
        has_parts = self._has_parts or any(divided.values())
        number = self._next()
        if has_parts:
            keeper.offer(position if self.first else _part(position, divided), number, self.processes.size)
        flags = [self.first and keeper.is_due, False, has_parts, not has_parts]
        due, unkept, self._has_parts, lacks_parts = self.processes.any_of(flags)
        if unkept:
            keeper.withdraw()
            innermost = position.levels[-1]
            self._lost(innermost.loop, innermost.turn, "another process cannot keep a state")
        elif self._has_parts and lacks_parts:  # all ranks write a part at the next position
            keeper.withdraw()
        elif has_parts:
            keeper.take(agreed=due)
        elif self.first:
            keeper.reached(position, number)
        else:
            keeper.withdraw(last=True)

    def unkept(self, loop: str, turn: int, reason: str) -> None:
        if loop in self.shared:
            self._next()
            self.processes.any_of([False, True, False, False])
            self._lost(loop, turn, reason)

    def effect_finished(self, effect: FinishedEffect) -> None:
        if self.first:
            self.keeper.effect_finished(effect)

    def _next(self) -> int:
        self.number += 1
        return self.number

    def _lost(self, loop: str, turn: int, reason: str) -> None:
        if self.first:
            self.keeper.unkept(loop, turn, reason)

    def _divided(self, position: Position) -> dict[StateKey, bool]:
        """For each state of a call that the ranks compute together, whether each rank has a part of it."""
        found = {}
        for states in (position.states, *(level.states for level in position.levels)):
            for key, snapshot in states.items():
                if key[0] in self._split:
                    found[key] = self._split[key[0]].states[key[1]].is_divided(snapshot, self.processes.mesh)
        return found


def _part(position: Position, divided: Mapping[StateKey, bool]) -> Position:
    """The position with divided states alone: rank 0 keeps the rest."""

    def own(states: Mapping[StateKey, Any]) -> dict[StateKey, Any]:
        return {key: snapshot for key, snapshot in states.items() if divided.get(key)}

    levels = (replace(level, states=own(level.states), collected={}, over={}) for level in position.levels)
    return Position(tuple(levels), own(position.states), {})
