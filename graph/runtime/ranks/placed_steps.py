"""Which calls a rank runs.

`split` calls run on every rank, and so do the calls that these need. Of those, rank 0 runs the ones that run `once`,
and sends their values. Everything else, such as effects, concerns rank 0 alone.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import takewhile
from typing import Any

from ...compiler.ir import Call, Ref, Var, output_ports
from ...compiler.plan import Acquire, CallStep, LoopStep, Plan, Release, Step, needed_for
from ...contract.ports import Port
from ...contract.processes import ONE_PROCESS, Processes
from ..arguments import Environment
from ..context import Context
from ..step_wrap import StepWrap


class PlacedSteps(StepWrap):
    """Runs the calls of this rank, and exchanges values with the others.

    Args:
        plan: The plan.
        context: The run. Calls that other ranks do not run get one process.
        processes: The processes.
        tell: Called on all ranks after each turn of a loop that they compute together, and after the loop.

    Attributes:
        needed: The `split` calls and the calls that they need.
        once: Those of `needed` that only rank 0 runs.
        first_only: The calls that only rank 0 runs, since no other rank needs them.
        shared_loops: The loops that the ranks compute together.
    """

    def __init__(
        self, plan: Plan, context: Context, processes: Processes, tell: Callable[[], None] = lambda: None
    ) -> None:
        self.tell = tell
        self.context, self.processes = context, processes
        self.first = processes.rank == 0
        calls = list(plan.calls())
        split = {call.id for call in calls if call.type.processes == "split"}
        self.needed = needed_for(plan, split)
        self.once = frozenset(call.id for call in calls if call.type.processes == "once") & self.needed
        self.first_only = frozenset(call.id for call in calls) - self.needed
        self._alone = self.first_only | self.once
        around = [around for step, around in plan.walk() if isinstance(step, CallStep) and step.call.id in split]
        self.shared_loops = {loop.id for loops in around for loop in loops}
        self._held: set[tuple[Ref, str]] = set()

    @property
    def skipped(self) -> Collection[str]:
        """Calls that this rank leaves out."""
        return frozenset() if self.first else self.first_only

    def replaces(self, step: Step, environment: Environment) -> bool:
        if isinstance(step, Acquire):
            if self._only_first(step):
                self.context.processes = ONE_PROCESS
                return not self.first
            self.context.processes = self.processes
            self._held.add((step.holder, step.part))
            return False
        if isinstance(step, Release):
            if self.first:
                return False
            held = (step.holder, step.part) in self._held
            self._held.discard((step.holder, step.part))
            return not held
        if isinstance(step, LoopStep) or self.first or step.call.id not in self._alone:
            return False
        values = self._received(step.call) if step.call.id in self.once else {}
        for port in output_ports(step.call):
            environment[Ref(step.call.id, port)] = values.get(port)
        for value in step.free:
            environment.pop(value, None)
        self.context.observer.values_freed(step.free)
        return True

    def _received(self, call: Call) -> Mapping[str, Any]:
        """The outputs of a call that rank 0 runs."""
        self.context.observer.range_started(call, "waits for", call.id)
        values: Mapping[str, Any] = self.processes.broadcast({})
        self.context.observer.range_finished(call, "waits for", call.id)
        return values

    def began(self, step: CallStep | LoopStep, environment: Environment) -> None:
        alone = isinstance(step, CallStep) and step.call.id in self._alone
        self.context.processes = ONE_PROCESS if alone else self.processes

    def ran(self, step: CallStep | LoopStep, environment: Environment) -> None:
        self.context.processes = self.processes
        if isinstance(step, CallStep) and step.call.id in self.once:
            made = {port: Ref(step.call.id, port) for port in output_ports(step.call)}
            self.processes.broadcast({port: environment[ref] for port, ref in made.items() if ref in environment})
        elif isinstance(step, LoopStep) and step.loop.id in self.shared_loops:
            self.tell()

    def running(self, steps: Sequence[Step], environment: Environment) -> tuple[Step, ...]:
        return tuple(s for s in steps if self.first or not isinstance(s, Acquire) or not self._only_first(s))

    def waits(self, steps: Sequence[Step]) -> bool:
        before = takewhile(lambda step: not isinstance(step, Acquire), steps)
        return not self.first and any(isinstance(step, CallStep) and step.call.id in self.once for step in before)

    def turned(self, step: LoopStep, environment: Environment) -> None:
        """Send the state that goes to the next turn: rank 0's, so that rounding cannot let ranks drift apart."""
        if step.loop.id not in self.shared_loops:
            return
        self.tell()
        if step.loop.carry:
            state = {name: environment[Var(step.loop.id, name)] for name in step.loop.carry}
            sent = {name: v for name, v in state.items() if isinstance(v, Port) and not hasattr(v, "acquire")}
            received = self.processes.broadcast(sent)
            environment.update({Var(step.loop.id, name): value for name, value in received.items()})

    def _only_first(self, step: Acquire) -> bool:
        """Whether only calls that rank 0 runs need a part."""
        return bool(step.readers) and self._alone.issuperset(step.readers)
