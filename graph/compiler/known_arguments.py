"""The arguments of a call that are known before a run, as facts for the functions of its node type."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..contract.facts import Facts, NodeFacts
from ..contract.node import Input
from ..contract.parameter_values import value_problem
from .ir import BROKEN, Arg, Call, Const, Items, Ref, Var

Known = Mapping[Any, Any]
"""Facts or plain values of outputs and loop variables before a run."""


def facts_of(call: Call, known: Known) -> NodeFacts:
    """The facts of a call's parameters, for a node type with functions that take facts."""
    assert call.type.facts is not None
    values: dict[str, Any] = {}
    for name, parameter in call.type.inputs.items():
        arg = call.args.get(name)
        if arg is None:
            if not parameter.required:
                values[name] = _listed(parameter, parameter.default)
        elif name in call.type.facts.lists:
            values[name] = _entries(arg, call.type.facts.kinds[name], known)
        elif not isinstance(arg.source, Const):
            value = known_value(arg, known)
            if value is not None:
                values[name] = value
        elif arg.source is not BROKEN and value_problem(parameter, arg.source.value) is None:
            values[name] = _listed(parameter, arg.source.value)
    return call.type.facts.make(values)


def _entries(arg: Arg, kind: type[Facts], known: Known) -> tuple[Facts, ...]:
    """The facts of each entry of a list from nodes; empty if the number of entries is not known."""
    if isinstance(arg.source, Items):
        found = [known_value(Arg(item), known) for item in arg.source.items]
        return tuple(value if isinstance(value, kind) else kind() for value in found)
    value = known_value(arg, known)
    return (value,) if isinstance(value, kind) else ()


def known_value(arg: Arg, known: Known) -> Any:
    """Facts or the plain value of an argument; None if nothing is known."""
    if isinstance(arg.source, Const):
        return None if arg.source is BROKEN else arg.source.value
    return known.get(arg.source) if isinstance(arg.source, Ref | Var) else None


def known_facts(arg: Arg, known: Known) -> Facts | None:
    """Facts of an argument that comes from a node; None if nothing is known, or the value is plain."""
    value = known_value(arg, known)
    return value if isinstance(value, Facts) else None


def _listed(parameter: Input, value: Any) -> Any:
    """A list as a tuple; a single value where a list is expected is a list of one."""
    if parameter.type.kind != "list" or value is None:
        return value
    return tuple(value) if isinstance(value, list | tuple) else (value,)
