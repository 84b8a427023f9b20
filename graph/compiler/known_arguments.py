"""Arguments of a call that are known before anything runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..contract.parameter_values import value_problem
from .ir import BROKEN, Arg, Call, Const, Ref, Var


def known_arguments(call: Call, known: Mapping[Any, Any]) -> dict[str, Any]:
    """A call's arguments as far as they are known: literals, defaults and descriptions."""
    result: dict[str, Any] = {n: p.default for n, p in call.type.inputs.items() if not p.required}
    for name, arg in call.args.items():
        result.pop(name, None)
        value = _known(arg, known)
        literal = isinstance(arg.source, Const)
        if value is not None and not (literal and value_problem(call.type.inputs[name], value)):
            result[name] = value
    return result


def _known(arg: Arg, known: Mapping[Any, Any]) -> Any:
    if isinstance(arg.source, Const):
        return None if arg.source is BROKEN else arg.source.value
    return known.get(arg.source) if isinstance(arg.source, Ref | Var) else None
