"""A call of the plan, with everything that is the same in every iteration of a loop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ..compiler.ir import Call, Ref
from ..contract.node import ALL, Here, State, Wanted
from ..resume.position import StateKey
from .arguments import Environment, Getter, argument_getter, entries_of
from .context import Context
from .declared_results import result_reader


@dataclass(frozen=True, slots=True)
class Prepared:
    """A call, ready to run.

    Attributes:
        getters: For each argument, a function that finds it in the environment.
        fixed: Arguments that the executor supplies.
        states: For each state, its parameter, its key and its type.
        function: The function of the node type.
        outputs: The outputs by port.
        read: Takes the function's result, and gives the value of each output.
    """

    getters: tuple[tuple[str, Getter], ...]
    fixed: dict[str, Any]
    states: tuple[tuple[str, StateKey, type[State]], ...]
    function: Callable[..., Any]
    outputs: tuple[tuple[str, Ref], ...]
    read: Callable[[Any], Sequence[Any]]


def prepare(call: Call, run: Context) -> Prepared:
    """Prepare a call for a run. The run hears of each file that a parameter names."""
    type = call.type
    fixed: dict[str, Any] = {}
    for name, kind in type.supplied.items():
        if kind == "run":
            fixed[name] = run
        elif kind == "here":
            fixed[name] = Here(call.id)
        else:
            wanted = call.wanted or {}
            fixed[name] = Wanted(next(iter(wanted.values()), frozenset({ALL})) if call.wanted else {ALL})
    getters = []
    for name, arg in call.args.items():
        get = argument_getter(type.inputs[name], arg)
        getters.append((name, _noted(get, run) if type.inputs[name].path == "read" else get))
    states = tuple((name, (call.id, name), state) for name, state in type.states.items())
    return Prepared(tuple(getters), fixed, states, type.function, _outputs(call), result_reader(type))


def skipped(call: Call) -> Prepared:
    """A call that does not run while planning: its outputs are None."""
    outputs = _outputs(call)
    return Prepared((), {}, (), lambda: (None,) * len(outputs), outputs, lambda result: result)


def _outputs(call: Call) -> tuple[tuple[str, Ref], ...]:
    return tuple((output.name, Ref(call.id, output.name)) for output in call.type.outputs)


def _noted(get: Getter, run: Context) -> Getter:
    """Find an argument that names files, and note them as used."""

    def noted(environment: Environment) -> Any:
        value = get(environment)
        for path in entries_of(value):
            run.used_file(path)
        return value

    return noted
