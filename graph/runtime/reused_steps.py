"""Leave out steps whose results come from the store of rank 0, in each process of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..compiler.ir import Call, Index, Loop, Ref, output_ports
from ..compiler.plan import Acquire, CallStep, LoopStep, Release, Step
from ..contract.processes import ONE_PROCESS, Processes
from ..store.keys import Place
from ..store.reuse import Reuse
from .arguments import Environment
from .context import Context
from .step_wrap import StepWrap


class ReusedSteps(StepWrap):
    """Leaves out the steps whose results come from the store, and those that no other step needs then.

    Args:
        reuse: The decision for each item.
        context: The run.
        processes: The processes of the run. All walk the same steps, and receive the results that they need.
    """

    def __init__(self, reuse: Reuse, context: Context, processes: Processes = ONE_PROCESS) -> None:
        self.reuse, self.context, self.processes = reuse, context, processes
        self._left = {place for place in reuse.lengths if place not in reuse.decision.run}
        self._held: set[tuple[Ref, str]] = set()

    def settled(self) -> bool:
        return not self._left

    def running(self, steps: Sequence[Step], environment: Environment) -> tuple[Step, ...]:
        return tuple(step for step in steps if not isinstance(step, Acquire) or self._acquires(step, environment))

    def replaces(self, step: Step, environment: Environment) -> bool:
        if isinstance(step, Acquire):
            if self._acquires(step, environment):
                self._held.add((step.holder, step.part))
                return False
            return True
        if isinstance(step, Release):
            if step.holder.node not in self.reuse.around or (step.holder, step.part) in self._held:
                self._held.discard((step.holder, step.part))
                return False
            return True
        node = step.call if isinstance(step, CallStep) else step.loop
        place = self.place(node, environment)
        if place is None or place in self.reuse.decision.run:
            return False
        self._left.discard(place)
        values = self.stored(place)
        if place in self.reuse.sent:
            values = self.processes.broadcast(values)
        length = self.reuse.lengths[place]
        for port in output_ports(node):
            environment[Ref(node.id, port)] = values.get(port, [None] * length if length else None)
        self._skip_inside(place)
        freed = (*(step.free_first if isinstance(step, LoopStep) else ()), *step.free)
        for value in freed:
            environment.pop(value, None)
        self.context.observer.values_freed(freed)
        return True

    def stored(self, place: Place) -> Mapping[str, Any]:
        """The stored values of an item by port; none where this process has no store."""
        return {}

    def place(self, node: Call | Loop, environment: Environment) -> Place | None:
        """The place of the item of a call or loop; None if it is no item."""
        turns = self._turns(node.id, environment)
        return (node.id, turns) if turns is not None and (node.id, turns) in self.reuse.lengths else None

    def _turns(self, id: str, environment: Environment) -> tuple[int, ...] | None:
        loops = self.reuse.around.get(id)
        return None if loops is None else tuple(environment[Index(loop)] for loop in loops)

    def _acquires(self, step: Acquire, environment: Environment) -> bool:
        turns = self._turns(step.holder.node, environment)
        return turns is None or self.reuse.decision.runs_one(step.readers, turns)

    def _skip_inside(self, place: Place) -> None:
        """Mark the items inside a loop that does not run as done."""
        if self.reuse.lengths[place]:
            id, turns = place
            depth = len(turns)
            around = self.reuse.around
            self._left -= {each for each in self._left if id in around[each[0]] and each[1][:depth] == turns}
