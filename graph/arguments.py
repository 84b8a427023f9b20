"""From sources to arguments: how a call finds its values in the environment, and in what form it gets them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from .ir import Arg, Call, Const, Format, Items, Source
from .node import Input, NodeError
from .passes.check import value_problem
from .passes.fold import format_text, locate
from .ports import Port, type_of

Environment = dict[Any, Any]
Getter = Callable[[Environment], Any]


def getter(source: Source) -> Getter:
    """A function that finds a source's value in the environment."""
    if isinstance(source, Const):
        value = source.value
        return lambda environment: value
    if isinstance(source, Format):
        parts = [p if isinstance(p, str) else getter(p) for p in source.parts]
        return lambda environment: format_text(source, [p if isinstance(p, str) else p(environment) for p in parts])
    if isinstance(source, Items):
        getters = [getter(item) for item in source.items]
        return lambda environment: [get(environment) for get in getters]
    return lambda environment: environment[source]


def argument_getter(parameter: Input, arg: Arg) -> Getter:
    """A function that finds an argument's value in the form the node takes."""
    get = getter(arg.source)
    if isinstance(arg.source, Const):
        value = _typed(parameter, arg.source.value)
        return lambda environment: value
    if parameter.type.kind == "list" and parameter.is_port:
        return lambda environment: value if isinstance(value := get(environment), list | tuple) else [value]
    if parameter.is_port:
        return get
    base = arg.source.base if isinstance(arg.source, Format) else None

    def checked(environment: Environment) -> Any:
        value = get(environment)
        if value is None and not parameter.required:
            return parameter.default
        if parameter.type.kind == "list" and not isinstance(value, list | tuple):
            value = [value]
        problem = value_problem(parameter, value)
        if problem is not None:
            raise NodeError(f"`{parameter.name}`: {problem}")
        if parameter.path in ("read", "source"):
            value = locate(value, base, parameter.path == "source")
        return _typed(parameter, value)

    return checked


def _typed(parameter: Input, value: Any) -> Any:
    """A checked plain value as the Python type that the node's function declares."""
    cls = parameter.type.cls
    if parameter.type.kind == "path" and value is not None:
        return Path(value)
    if parameter.type.kind == "enum" and cls is not None and value is not None:
        return cls(value)
    return value


def summary(call: Call, arguments: Mapping[str, Any]) -> dict[str, str]:
    """What a call was given, in words: shapes and dtypes for values, literals as they are."""
    found = {}
    for name in call.type.inputs:
        if name in arguments:
            value = arguments[name]
            facts = value.facts() if isinstance(value, Port) else {"value": value}
            text = ", ".join(f"{v}" if k in ("value", "dtype") else f"{k} {v}" for k, v in facts.items())
            kind = type(value).__name__ if isinstance(value, Port) else str(type_of(value))
            found[name] = f"{kind} {text}"[:200].strip()
    return found
