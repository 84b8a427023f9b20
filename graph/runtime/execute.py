"""Run a plan in one thread, and report its events to observers."""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping, Sequence
from time import perf_counter
from typing import Any

from ..compiler.ir import Call, Ref
from ..compiler.plan import Acquire, CallStep, LoopStep, Plan, Release, Step, Value
from ..contract.errors import WrongValue
from ..contract.events import Observer, Observers
from ..contract.process_state import shared
from ..resume.position import Positions, Start
from .arguments import Environment, getter, summary
from .components import Components
from .context import Context
from .failure import Interrupted, NodeFailed, reason
from .finished_effects import FinishedEffects
from .loop_stack import LoopStack
from .loop_under_way import LoopUnderWay, States
from .prepared_call import Prepared, prepare, skipped
from .step_wrap import StepWrap, StepWraps


class Executor:
    """Runs a plan once.

    Args:
        plan: The plan to run.
        run: The run that nodes receive; its `call` is set before each node.
        observer: Receives all events.
        stop: When set, the run ends before the next step with `Interrupted`.
        turns: At most this many iterations of each loop (for planning); None for all. The lists of a mapping loop keep
            their full length: the last result is repeated.
        skip: Calls not to run, by path; their outputs are None (for planning; see `plan.after_effects`).
        positions: Hears of each place between two turns of a loop, and of effects; None if nobody does.
        start: Where the run begins; None for its first step.
        wrap: Stands around the steps; some need not run.
    """

    def __init__(
        self,
        plan: Plan,
        run: Context,
        observer: Observer,
        stop: threading.Event | None = None,
        turns: int | None = None,
        skip: Collection[str] = (),
        positions: Positions | None = None,
        start: Start | None = None,
        wrap: StepWrap | None = None,
    ) -> None:
        self.plan, self.run, self.observer = plan, run, observer
        self.stop = stop or threading.Event()
        self.turns, self.skip = turns, skip
        run.mute([warning.partition(": ")[2] for warning in plan.warnings])
        self.calls = {call.id: call for call in plan.calls()}
        self.prepared: dict[str, Prepared] = {}
        self.checks: Observer = Observers([c for each in plan.loaded for c in each.value_checks(run)], strict=True)
        self.components = Components(run, observer, self.maker, self.stop)
        self.loops = LoopStack(plan, self.calls, run, positions, start)
        effects = FinishedEffects(self.loops) if positions is not None or start is not None else None
        wraps = [each for each in (wrap, effects) if each is not None]
        self.wrap = StepWraps(wraps) if wraps else StepWrap()
        self.overlapped = False
        """Whether another thread runs steps too."""

    def execute(self) -> dict[str, Any]:
        """Run all steps.

        Returns:
            The workflow's outputs by name.

        Raises:
            NodeFailed: If a node raised, or a value breaks the rules for nodes.
            NodeError: If there is nothing to loop over, or lists that advance together differ in length.
            Interrupted: If `stop` was set.
        """
        environment: Environment = {}
        states, whole = self.loops.outer, True
        try:
            self.loops.begin(environment)
            self.steps(self.plan.steps, environment, states)
            self.finish_checks()
            return {name: getter(arg.source)(environment) for name, arg in self.plan.outputs.items()}
        except BaseException as error:
            # Raised between two steps, so no step of this thread is half done.
            whole = isinstance(error, Interrupted) and not self.overlapped
            raise
        finally:
            try:
                self.wrap.ended()
            finally:
                self.end(states)
                self.components.release_all(discard=not whole)
                # The traceback of an error refers to this frame; it must not keep every value of the run.
                environment.clear()

    def steps(self, steps: tuple[Step, ...], environment: Environment, states: States) -> None:
        """Run the steps of one level, and free each value after its last reader."""
        steps, wrap = self.loops.to_take(steps), self.wrap
        for number, step in enumerate(steps):
            if self.stop.is_set():
                raise Interrupted
            replaced = wrap.replaces(step, environment)
            if isinstance(step, Acquire):
                if not replaced:
                    self.components.acquire(step, environment)
                running = wrap.running(steps[number + 1 :], environment)
                self.components.prefetch(running, environment, wrap.waits(running))
            elif replaced:
                continue
            elif isinstance(step, Release):
                self.components.release(step)
            else:
                wrap.began(step, environment)
                if isinstance(step, CallStep):
                    self.call(step.call, environment, states)
                else:
                    self.loop(step, environment)
                self.free(step.free, environment)
                wrap.ran(step, environment)

    def call(self, call: Call, environment: Environment, states: States) -> None:
        """Run a call: its function takes its arguments from the environment, and its outputs go there."""
        prepared, run = self.prepared.get(call.id) or self.prepare(call), self.run
        run.call = call
        arguments: dict[str, Any] = {}
        try:
            for name, get in prepared.getters:
                arguments[name] = get(environment)
            self.checks.node_started(call, arguments)
            self.observer.node_started(call, arguments)
            for name, key, state in prepared.states:
                if key not in states:
                    states[key] = state()
                arguments[name] = states[key]
            with shared():
                began = perf_counter()
                result = prepared.function(**arguments, **prepared.fixed)
                seconds = perf_counter() - began
            outputs = {}
            for (port, ref), value in zip(prepared.outputs, prepared.read(result), strict=True):
                environment[ref] = outputs[port] = value
            self.checks.node_finished(call, seconds, outputs)
        except (Exception, SystemExit) as error:
            raise self.failed(call, arguments, error) from error
        if run.unfinished:
            run.keep()
        self.observer.node_finished(call, seconds, outputs)

    def loop(self, step: LoopStep, environment: Environment) -> None:
        """Run a loop: all its turns, or those that are left in a resumed run."""
        loop = self.loops.begin_loop(step, environment, self.turns, partial=bool(self.skip))
        if not loop.resumed:
            self.free(step.free_first, environment)
        self.loops.under_way.append(loop)
        self.checks.loop_started(step.loop, loop.total)
        self.observer.loop_started(step.loop, loop.total)
        try:
            self.between_turns(environment)
            for index in loop.remaining(self.turns):
                began = perf_counter()
                self.turn(loop, index, environment)
                loop.leave(index, environment)
                self.wrap.turned(step, environment)
                self.checks.turn_finished(step.loop, index, 0.0)
                self.observer.turn_finished(step.loop, index, perf_counter() - began)
                self.between_turns(environment)
        finally:
            self.loops.under_way.pop()
            self.end(loop.states)
        loop.finish(environment)
        self.checks.loop_finished(step.loop)
        self.observer.loop_finished(step.loop)

    def turn(self, loop: LoopUnderWay, index: int, environment: Environment) -> None:
        """Run one iteration of a loop, without its `yield`."""
        variables = loop.enter(index, environment)
        self.checks.turn_started(loop.step.loop, index, variables)
        self.observer.turn_started(loop.step.loop, index, variables)
        del variables
        self.steps(loop.step.body, environment, loop.states)

    def between_turns(self, environment: Environment) -> None:
        """Tell about this place, if the run may be resumed here."""
        if self.wrap.settled():
            self.loops.between_turns(environment)

    def free(self, names: Sequence[Value], environment: Environment) -> None:
        """Free values. The frame of their last reader is gone, and keeps none alive."""
        if names:
            for name in names:
                environment.pop(name, None)
            self.observer.values_freed(names)

    def prepare(self, call: Call) -> Prepared:
        """Prepare a call, once for all turns."""
        prepared = self.prepared[call.id] = skipped(call) if call.id in self.skip else prepare(call, self.run)
        return prepared

    def failed(self, call: Call, arguments: Mapping[str, Any], error: BaseException) -> NodeFailed:
        """The error that ends the run. A check may have found the value of an earlier call."""
        made = error.call if isinstance(error, WrongValue) else None
        self.checks.node_failed(call, error)
        self.observer.node_failed(made or call, error)
        return NodeFailed(call, summary(call, arguments), error) if made is None else NodeFailed(made, {}, error)

    def finish_checks(self) -> None:
        """Wait for the last results of checks.

        Raises:
            NodeFailed: If a check found a wrong value.
        """
        try:
            self.checks.run_finished("done", None)
        except WrongValue as error:
            raise self.failed(error.call, {}, error) from error

    def end(self, states: States) -> None:
        """End every state, even if ending one raises."""
        for (id, name), state in states.items():
            self.run.call = self.calls[id]
            try:
                state.end()
            except Exception as error:
                self.run.warn(f"state `{name}` could not end: {reason(error)}")

    def maker(self, holder: Ref) -> Call:
        """The call that made a value; for the result of a loop, a call in that loop."""
        made = self.calls.get(holder.node)
        return made or next(call for id, call in self.calls.items() if id.startswith(f"{holder.node}."))
