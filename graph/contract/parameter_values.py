"""Whether a literal can be the value of a node's parameter."""

from __future__ import annotations

import math
from typing import Any

from pydantic import TypeAdapter, ValidationError

from .node import Input as Parameter
from .ports import misfit, show

# The parameter is kept with its adapter, so that its id stays its own.
_ADAPTERS: dict[int, tuple[Parameter, TypeAdapter[Any]]] = {}


def value_problem(parameter: Parameter, value: Any) -> str | None:
    """Why a literal cannot be this parameter's value, None if it can."""
    if value is None:
        return None if parameter.optional else "null is not allowed"
    problem = misfit(parameter.type, value)
    if problem is not None:
        return problem
    for entry in value if isinstance(value, list) else [value]:
        if isinstance(entry, float) and not math.isfinite(entry):
            return "not a number (NaN) is not a value" if math.isnan(entry) else f"{show(entry)} is not a finite number"
    if id(parameter) not in _ADAPTERS:
        adapter = TypeAdapter(parameter.annotation, config={"arbitrary_types_allowed": True})
        _ADAPTERS[id(parameter)] = (parameter, adapter)
    try:
        _ADAPTERS[id(parameter)][1].validate_python(value)
    except ValidationError as error:
        first = error.errors()[0]
        return f"{show(first.get('input', value))} is out of bounds: {_lower(first['msg'].removeprefix('Input '))}"
    return None


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]
