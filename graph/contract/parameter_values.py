"""Check a literal against a node's parameter."""

from __future__ import annotations

import math
from typing import Any

from pydantic import TypeAdapter, ValidationError

from .node import Input as Parameter
from .ports import misfit, show

# The entry keeps the parameter alive, so that no other object gets its id.
_ADAPTERS: dict[int, tuple[Parameter, TypeAdapter[Any]]] = {}


def value_problem(parameter: Parameter, value: Any) -> str | None:
    """The problem with a literal as this parameter's value; None if there is none."""
    if value is None:
        return None if parameter.optional else "null is not allowed"
    problem = misfit(parameter.type, value)
    if problem is not None:
        return problem
    for entry in value if isinstance(value, list) else [value]:
        if isinstance(entry, float) and not math.isfinite(entry):
            return "NaN (not a number) is not a value" if math.isnan(entry) else f"{show(entry)} is not a finite number"
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
