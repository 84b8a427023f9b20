"""Run a plan in one thread, and report its events to observers."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from time import perf_counter
from typing import Any

from ..compiler.ir import Call, Index, Ref, Var, output_ports
from ..compiler.plan import Acquire, CallStep, LoopStep, Plan, Step
from ..contract.errors import NodeError, WrongValue
from ..contract.events import Observer, Observers
from ..contract.node import ALL, Here, State, Wanted
from ..contract.process_state import enter_shared, leave_shared
from ..resume.position import LoopLevel
from .arguments import Environment, Getter, argument_getter, entries_of, getter, summary
from .components import Components
from .context import Context
from .declared_results import result_reader
from .failure import Interrupted, NodeFailed, reason
from .places import LoopUnderWay, Places, States
from .step_wrap import StepWrap

__all__ = ["Executor", "Interrupted", "NodeFailed"]


@dataclass
class Prepared:
    """A call, with the values that are the same in every iteration of a loop."""

    call: Call
    getters: tuple[tuple[str, Getter], ...]
    fixed: dict[str, Any]
    states: tuple[tuple[str, tuple[str, str], type[State]], ...]
    function: Callable[..., Any]
    outputs: tuple[tuple[str, Ref], ...]
    read: Callable[[Any], Sequence[Any]]
    free: tuple[Ref | Var, ...]
    files: tuple[str, ...] = ()


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
        places: Follows the loops under way, and knows where a resumed run begins.
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
        places: Places | None = None,
        wrap: StepWrap | None = None,
    ) -> None:
        self.places = places or Places(plan, run)
        self.wrap = wrap
        self.plan, self.run, self.observer = plan, run, observer
        self.stop = stop or threading.Event()
        self.turns = turns
        self.skip = skip
        run.mute([warning.partition(": ")[2] for warning in plan.warnings])
        self.prepared: dict[str, Prepared] = {}
        self.checks: Observer = Observers([c for each in plan.loaded for c in each.value_checks(run)], strict=True)
        self.components = Components(run, observer, self.maker, self.stop)

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
        states = self.places.outer
        try:
            self.steps(self.plan.steps, environment, states, self.places.begin(environment))
            self.finish_checks()
            return {name: getter(arg.source)(environment) for name, arg in self.plan.outputs.items()}
        finally:
            self.end(states)
            self.components.release_all()
            # The traceback of an error refers to this frame; it must not keep every value of the run.
            environment.clear()

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
            self.run.call = self.places.calls[id].call
            try:
                state.end()
            except Exception as error:
                self.run.warn(f"state `{name}` could not end: {reason(error)}")

    def steps(
        self, steps: tuple[Step, ...], environment: Environment, states: States, at: tuple[LoopLevel, ...] = ()
    ) -> None:
        """Run the steps of one level. `at`: the loops in it that were under way, the outermost first."""
        first = at[0].step if at else 0
        for number, step in self.places.to_take(steps, first):
            if self.stop.is_set():
                raise Interrupted
            wrap = self.wrap
            if wrap is not None:
                if wrap.receives(step):
                    self.components.prefetch(wrap.running(steps[number:], environment), environment)
                if wrap.replaces(step, environment):
                    continue
            if isinstance(step, CallStep | LoopStep) and wrap is not None:
                wrap.began(step, environment)
            if isinstance(step, CallStep):
                self.call(step, environment, states)
            elif isinstance(step, LoopStep):
                self.loop(step, environment, number, at if number == first else ())
            elif isinstance(step, Acquire):
                self.components.acquire(step, environment)
                if number >= first and not isinstance(steps[number + 1], Acquire):
                    following = steps[number + 1 :]
                    self.components.prefetch(wrap.running(following, environment) if wrap else following, environment)
            else:
                self.components.release(step)
            if isinstance(step, CallStep | LoopStep) and wrap is not None:
                wrap.ran(step, environment)

    def call(self, step: CallStep, environment: Environment, states: States) -> None:
        call = step.call
        prepared = self.prepared.get(call.id)
        if prepared is None:
            prepared = self.prepared[call.id] = self.prepare(step)
        if call.type.effect and self.places.finished_before(step, environment):
            for freed in step.free:
                environment.pop(freed, None)
            self.observer.values_freed(step.free)
            return
        run = self.run
        run.call = call
        arguments: dict[str, Any] = {}
        try:
            for name, get in prepared.getters:
                arguments[name] = get(environment)
            self.checks.node_started(call, arguments)
            self.observer.node_started(call, arguments)
            for name in prepared.files:
                for path in entries_of(arguments[name]):
                    run.used_file(path)
            for name, key, state in prepared.states:
                if key not in states:
                    states[key] = state()
                arguments[name] = states[key]
            enter_shared()
            try:
                began = perf_counter()
                result = prepared.function(**arguments, **prepared.fixed)
                seconds = perf_counter() - began
            finally:
                leave_shared()
            outputs = {}
            for (port, ref), value in zip(prepared.outputs, prepared.read(result), strict=True):
                environment[ref] = outputs[port] = value
            self.checks.node_finished(call, seconds, outputs)
        except (Exception, SystemExit) as error:
            raise self.failed(call, arguments, error) from error
        files = tuple(run.unfinished)
        if files:
            run.keep()
        self.observer.node_finished(call, seconds, outputs)
        if call.type.effect:
            self.places.effect_finished(call, outputs, files)
        if prepared.free:
            # The local variables would keep the freed values alive while observers receive the event.
            result = arguments = outputs = value = None  # type: ignore[assignment]
            for freed in prepared.free:
                environment.pop(freed, None)
            self.observer.values_freed(prepared.free)

    def failed(self, call: Call, arguments: Mapping[str, Any], error: BaseException) -> NodeFailed:
        """The error that ends the run. A check may have found the value of an earlier call."""
        made = error.call if isinstance(error, WrongValue) else None
        self.checks.node_failed(call, error)
        self.observer.node_failed(made or call, error)
        return NodeFailed(call, summary(call, arguments), error) if made is None else NodeFailed(made, {}, error)

    def prepare(self, step: CallStep) -> Prepared:
        call, type = step.call, step.call.type
        fixed: dict[str, Any] = {}
        for name, kind in type.supplied.items():
            if kind == "run":
                fixed[name] = self.run
            elif kind == "here":
                fixed[name] = Here(call.id)
            else:
                wanted = call.wanted or {}
                fixed[name] = Wanted(next(iter(wanted.values()), frozenset({ALL})) if call.wanted else {ALL})
        outputs = tuple((o.name, Ref(call.id, o.name)) for o in type.outputs)
        if call.id in self.skip:
            nothing = (None,) * len(outputs)
            return Prepared(call, (), {}, (), lambda: nothing, outputs, lambda result: result, step.free)
        getters = tuple((name, argument_getter(type.inputs[name], arg)) for name, arg in call.args.items())
        states = tuple((name, (call.id, name), state) for name, state in type.states.items())
        files = tuple(name for name, _ in getters if type.inputs[name].path == "read")
        return Prepared(call, getters, fixed, states, type.function, outputs, result_reader(type), step.free, files)

    def loop(self, step: LoopStep, environment: Environment, number: int = 0, at: tuple[LoopLevel, ...] = ()) -> None:
        """Run a loop, the step with this number of its level. `at`: this loop and those in it that were under way."""
        loop = step.loop
        over, total = self._over(step, environment, at[0] if at else None)
        collected: dict[str, list[Any]] = {name: [] for name in loop.body.outputs} if loop.mapping else {}
        states: States = {}
        if at:
            collected |= {name: list(values) for name, (values, _) in at[0].collected.items()}
            self.places.restore(at[0].states, states)
        else:
            for name, arg in loop.carry.items():
                environment[Var(loop.id, name)] = getter(arg.source)(environment)
            for freed in step.free_first:
                environment.pop(freed, None)
            if step.free_first:
                self.observer.values_freed(step.free_first)
        first = at[0].turn if at else 0
        here = LoopUnderWay(step, number, total, over, collected, states, first)
        self.places.under_way.append(here)
        yields = {name: getter(arg.source) for name, arg in loop.body.outputs.items()}
        made = [Ref(id, port) for id, item in loop.body.items.items() for port in output_ports(item)]
        self.checks.loop_started(loop, total)
        self.observer.loop_started(loop, total)
        try:
            if len(at) <= 1:  # else an inner loop is between two turns
                self.between_turns(environment)
            for index in range(first, total if self.turns is None else min(total, self.turns)):
                began = perf_counter()
                self.turn(here, index, environment, at[1:] if index == first else ())
                self._yield(step, yields, made, collected, environment)
                here.turn = index + 1
                self.checks.turn_finished(loop, index, 0.0)
                self.observer.turn_finished(loop, index, perf_counter() - began)
                self.between_turns(environment)
        finally:
            self.places.under_way.pop()
            self.end(states)
        for name in (*loop.over, *loop.carry):
            value = environment.pop(Var(loop.id, name), None)
            if name in loop.carry:
                environment[Ref(loop.id, name)] = value
        environment.pop(Index(loop.id), None)
        for name, values in collected.items():
            environment[Ref(loop.id, name)] = values + values[-1:] * (total - len(values))
        self.checks.loop_finished(loop)
        self.observer.loop_finished(loop)
        if step.free:
            value = values = collected = None  # type: ignore[assignment]
            for freed in step.free:
                environment.pop(freed, None)
            self.observer.values_freed(step.free)

    def between_turns(self, environment: Environment) -> None:
        """Tell about this place, if the run may be resumed here."""
        if self.wrap is None or self.wrap.settled():
            self.places.between_turns(environment)

    def turn(
        self, under_way: LoopUnderWay, index: int, environment: Environment, at: tuple[LoopLevel, ...] = ()
    ) -> None:
        """Run one iteration of a loop, without its `yield`. `at`: loops in it that were under way."""
        loop, body = under_way.step.loop, under_way.step.body
        variables: dict[str, Any] = {}
        for name, values in under_way.over.items():
            if not at:
                environment[Var(loop.id, name)] = values[index]
            variables[name] = environment.get(Var(loop.id, name))
            values[index] = None  # so that the body's last reader is the value's last reader
        environment[Index(loop.id)] = index
        self.checks.turn_started(loop, index, variables)
        self.observer.turn_started(loop, index, variables)
        del variables
        self.steps(body, environment, under_way.states, at)

    def _yield(
        self,
        step: LoopStep,
        yields: Mapping[str, Getter],
        made: Iterable[Ref],
        collected: Mapping[str, list[Any]],
        environment: Environment,
    ) -> None:
        """Carry an iteration's results to the next one, or append them to the loop's lists. Drop all other values."""
        after: Mapping[str, Any] = {name: get(environment) for name, get in yields.items()}
        if self.wrap is not None and not step.loop.mapping:
            after = self.wrap.carried(step.loop, after)
        for ref in made:
            environment.pop(ref, None)
        for name, value in after.items():
            if step.loop.mapping:
                collected[name].append(value)
            else:
                environment[Var(step.loop.id, name)] = value

    def _over(
        self, step: LoopStep, environment: Environment, level: LoopLevel | None = None
    ) -> tuple[dict[str, list[Any]], int]:
        """The values that a loop iterates over, as lists that the loop owns, and the number of turns.

        The lists hold the values of the turns that run, which are few while planning. `level`: the loop as it was
        under way, with the values whose source is gone.
        """
        loop = step.loop
        over: dict[str, list[Any]] = {}
        lengths: dict[str, int] = {}
        unknown = []
        for name, arg in loop.over.items():
            if level is not None and name in level.over:
                lengths[name] = level.total
                kept = level.over[name]
                over[name] = [None] * (level.total - len(kept)) + list(kept)
                continue
            value = getter(arg.source)(environment)
            if value is None and self.skip:
                unknown.append(name)
                continue
            try:
                lengths[name] = len(value) if hasattr(value, "__len__") else len(value := list(value))
                over[name] = list(islice(value, self.turns))
            except TypeError:
                raise self._bad_loop(step, f"`{name}` is not a list: {type(value).__name__}") from None
        counts = set(lengths.values()) or {1}
        if len(counts) > 1 or not min(counts):
            text = ", ".join(f"`{n}` has {length} entries" for n, length in lengths.items())
            differ = "lists that advance together differ in length"
            raise self._bad_loop(step, f"{differ if min(counts) else 'nothing to loop over'}: {text}")
        total = min(counts)
        return over | {name: [None] * total for name in unknown}, total

    def _bad_loop(self, step: LoopStep, why: str) -> NodeError:
        span = step.loop.span
        where = f"\n --> {span.file}:{span.line}:{span.column}" if span else ""
        return NodeError(f"loop {step.loop.id}: {why}{where}")

    def maker(self, holder: Ref) -> Call:
        """The call that made a value; for the result of a loop, a call in that loop."""
        made = self.prepared.get(holder.node)
        if made is not None:
            return made.call
        return next(p.call for id, p in self.prepared.items() if id.startswith(f"{holder.node}."))
