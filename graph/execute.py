"""Runs a plan, in one thread, and tells observers about it; nothing else."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from time import perf_counter
from typing import Any

from .arguments import Environment, Getter, argument_getter, getter, summary
from .context import Context
from .events import Observer
from .ir import Call, Index, Ref, Var, output_ports
from .node import ALL, Here, NodeError, State, Wanted
from .plan import Acquire, CallStep, LoopStep, Plan, Release, Step


class Interrupted(Exception):
    """The run was asked to stop."""


class NodeFailed(Exception):
    """A node raised; `__cause__` is what it raised.

    Attributes:
        call: The call that failed.
        where: File, line and column of it, if known.
        inputs: What it was given: per parameter the type, and shape and dtype or the value.
    """

    def __init__(self, call: Call, inputs: Mapping[str, str], cause: BaseException) -> None:
        self.call, self.inputs = call, inputs
        span = call.span
        self.where = f"{span.file}:{span.line}:{span.column}" if span else ""
        lines = [f"{call.id} ({call.type.name}) failed: {_reason(cause)}"]
        lines += [f" --> {self.where}"] if self.where else []
        lines += [f"  {name}: {text}" for name, text in inputs.items()]
        self.help = getattr(cause, "help", None)
        lines += [f" = help: {self.help}"] if self.help else []
        super().__init__("\n".join(lines))
        self.__cause__ = cause


def _reason(cause: BaseException) -> str:
    text = str(cause) or "no message"
    return text if isinstance(cause, NodeError) else f"{type(cause).__name__}: {text}"


@dataclass
class Prepared:
    """A call with everything looked up that does not change from turn to turn."""

    call: Call
    getters: dict[str, Getter]
    fixed: dict[str, Any]
    states: Mapping[str, type[State]]
    function: Callable[..., Any]
    outputs: tuple[Ref, ...]
    free: tuple[Ref | Var, ...]


class Executor:
    """Runs a plan once.

    Args:
        plan: What to run.
        run: What nodes may ask of the run; its `call` is set before each node.
        observer: Hears everything.
        stop: When set, the run ends before the next step with `Interrupted`.
        turns: At most this many turns of each loop (for planning), None for all.
        substitutes: Functions to run instead of those of some node types, by name (for planning).
        skip_effects: Do not run nodes with effects; their outputs are None (for planning).
    """

    def __init__(
        self,
        plan: Plan,
        run: Context,
        observer: Observer,
        stop: threading.Event | None = None,
        turns: int | None = None,
        substitutes: Mapping[str, Callable[..., Any]] | None = None,
        skip_effects: bool = False,
    ) -> None:
        self.plan, self.run, self.observer = plan, run, observer
        self.stop = stop or threading.Event()
        self.turns = turns
        self.substitutes = substitutes or {}
        self.skip_effects = skip_effects
        self.prepared: dict[str, Prepared] = {}
        self.held: dict[tuple[Ref, str], None] = {}

    def execute(self) -> dict[str, Any]:
        """Run all steps.

        Returns:
            The workflow's outputs by name.

        Raises:
            NodeFailed: If a node raised.
            Interrupted: If it was stopped.
        """
        environment: Environment = {}
        states: dict[tuple[str, str], State] = {}
        try:
            self.steps(self.plan.steps, environment, states)
            return {name: getter(arg.source)(environment) for name, arg in self.plan.outputs.items()}
        finally:
            _end(states)
            self._release_all(environment)

    def _release_all(self, environment: Environment) -> None:
        """After an error or an interrupt, let go of every component that is still held."""
        for holder, part in list(self.held):
            value = environment.get(holder)
            with suppress(Exception):
                self._let_go(value, part)
        self.held.clear()

    def steps(self, steps: tuple[Step, ...], environment: Environment, states: dict[tuple[str, str], State]) -> None:
        for number, step in enumerate(steps):
            if self.stop.is_set():
                raise Interrupted
            if isinstance(step, CallStep):
                self.call(step, environment, states)
            elif isinstance(step, LoopStep):
                self.loop(step, environment)
            elif isinstance(step, Acquire):
                self.acquire(step, environment)
                self.prefetch(steps, number + 1, environment)
            else:
                self.release(step, environment)

    def call(self, step: CallStep, environment: Environment, states: dict[tuple[str, str], State]) -> None:
        call = step.call
        prepared = self.prepared.get(call.id)
        if prepared is None:
            prepared = self.prepared[call.id] = self.prepare(step)
        self.run.call = call
        arguments: dict[str, Any] = {}
        try:
            for name, get in prepared.getters.items():
                arguments[name] = get(environment)
            self.observer.node_started(call, arguments)
            for name, state in prepared.states.items():
                key = (call.id, name)
                if key not in states:
                    states[key] = state()
                arguments[name] = states[key]
            began = perf_counter()
            result = prepared.function(**arguments, **prepared.fixed)
            seconds = perf_counter() - began
        except Exception as error:
            self.observer.node_failed(call, error)
            raise NodeFailed(call, summary(call, arguments), error) from error
        if len(prepared.outputs) == 1 and not call.type.tuple_result:
            environment[prepared.outputs[0]] = result
            outputs = {prepared.outputs[0].port: result}
        else:
            outputs = {}
            values = result if result is not None else (None,) * len(prepared.outputs)
            for ref, value in zip(prepared.outputs, values, strict=True):
                environment[ref] = outputs[ref.port] = value
        self.observer.node_finished(call, seconds, outputs)
        if prepared.free:
            # The local names would keep what is freed here alive until the next call.
            result = arguments = outputs = values = None  # type: ignore[assignment]
            for value in prepared.free:
                environment.pop(value, None)
            self.observer.values_freed(prepared.free)

    def prepare(self, step: CallStep) -> Prepared:
        call, type = step.call, step.call.type
        getters: dict[str, Getter] = {}
        fixed: dict[str, Any] = {}
        for name, arg in call.args.items():
            getters[name] = argument_getter(type.inputs[name], arg)
        for name, asked in type.asks.items():
            if asked == "run":
                fixed[name] = self.run
            elif asked == "here":
                fixed[name] = Here(call.id)
            else:
                wanted = call.wanted or {}
                fixed[name] = Wanted(next(iter(wanted.values()), frozenset({ALL})) if call.wanted else {ALL})
        function = self.substitutes.get(type.name, type.function)
        if self.skip_effects and type.effect:
            function = _nothing
        refs = tuple(Ref(call.id, o.name) for o in type.outputs)
        return Prepared(call, getters, fixed, type.states, function, refs, step.free)

    def loop(self, step: LoopStep, environment: Environment) -> None:
        loop = step.loop
        over = {name: list(getter(arg.source)(environment)) for name, arg in loop.over.items()}
        lengths = {len(values) for values in over.values()}
        if len(lengths) != 1 or not min(lengths):
            self._bad_loop(step, {n: len(v) for n, v in over.items()})
        total = lengths.pop()
        for name, arg in loop.carry.items():
            environment[Var(loop.id, name)] = getter(arg.source)(environment)
        for value in step.free_first:
            environment.pop(value, None)
        if step.free_first:
            self.observer.values_freed(step.free_first)
        collected: dict[str, list[Any]] = {name: [] for name in loop.body.outputs} if loop.mapping else {}
        states: dict[tuple[str, str], State] = {}
        yields = {name: getter(arg.source) for name, arg in loop.body.outputs.items()}
        locals_ = [Ref(id, port) for id, item in loop.body.items.items() for port in output_ports(item)]
        self.observer.loop_started(loop, total)
        try:
            for index in range(total if self.turns is None else min(total, self.turns)):
                if self.stop.is_set():
                    raise Interrupted
                for name, values in over.items():
                    environment[Var(loop.id, name)] = values[index]
                environment[Index(loop.id)] = index
                self.observer.turn_started(loop, index, {name: values[index] for name, values in over.items()})
                began = perf_counter()
                self.steps(step.body, environment, states)
                after = {name: get(environment) for name, get in yields.items()}
                for ref in locals_:
                    environment.pop(ref, None)
                for name, value in after.items():
                    if loop.mapping:
                        collected[name].append(value)
                    else:
                        environment[Var(loop.id, name)] = value
                self.observer.turn_finished(loop, index, perf_counter() - began)
        finally:
            _end(states)
        for name in (*loop.over, *loop.carry):
            value = environment.pop(Var(loop.id, name), None)
            if name in loop.carry:
                environment[Ref(loop.id, name)] = value
        environment.pop(Index(loop.id), None)
        for name, values in collected.items():
            # Turns that a plan leaves out count as the last one, so that loops over the result have their length.
            environment[Ref(loop.id, name)] = values + values[-1:] * (total - len(values))
        self.observer.loop_finished(loop)
        for value in step.free:
            environment.pop(value, None)
        if step.free:
            self.observer.values_freed(step.free)

    def _bad_loop(self, step: LoopStep, lengths: Mapping[str, int]) -> None:
        span = step.loop.span
        where = f"\n --> {span.file}:{span.line}:{span.column}" if span else ""
        text = ", ".join(f"`{n}` has {length} entries" for n, length in lengths.items())
        reason = "nothing to loop over" if not all(lengths.values()) else "lists that advance together differ in length"
        raise NodeError(f"loop {step.loop.id}: {reason}: {text}{where}")

    def acquire(self, step: Acquire, environment: Environment) -> None:
        holder = environment[step.holder]
        call = self.prepared[step.holder.node].call
        self.run.call = call
        for part in self._parts(holder, step.part):
            began = perf_counter()
            try:
                holder.acquire(part, self.run)
            except Exception as error:
                self.observer.node_failed(call, error)
                raise NodeFailed(call, {"component": part}, error) from error
            self.held[step.holder, part] = None
            self.observer.part_acquired(step.holder, part, perf_counter() - began)

    def release(self, step: Release, environment: Environment) -> None:
        holder = environment.get(step.holder)
        for part in self._parts(holder, step.part):
            self._let_go(holder, part)
            self.held.pop((step.holder, part), None)
            self.observer.part_released(step.holder, part)

    def _let_go(self, holder: Any, part: str) -> None:
        if holder is not None:
            holder.release(part)

    def _parts(self, holder: Any, part: str) -> Iterable[str]:
        return holder.parts() if part == ALL else (part,)

    def prefetch(self, steps: tuple[Step, ...], start: int, environment: Environment) -> None:
        """Bring the next component near while what stands before it runs."""
        following = next((s for s in steps[start:] if isinstance(s, Acquire)), None)
        if following is None or following.part == ALL or self.run.planning:
            return
        holder = environment.get(following.holder)
        if holder is not None:
            thread = threading.Thread(target=holder.prefetch, args=(following.part, self.run), daemon=True)
            thread.start()


def _nothing(**_: Any) -> None:
    return None


def _end(states: Mapping[tuple[str, str], State]) -> None:
    """End every state, even if ending one raises."""
    for state in states.values():
        with suppress(Exception):
            state.end()
