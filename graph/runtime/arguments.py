"""From sources to arguments: find the values of a call in the environment, in the form that the node takes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from ..compiler.ir import Arg, Call, Const, Format, Items, Source
from ..compiler.passes.fold import format_text, locate
from ..contract.errors import NodeError
from ..contract.node import Input
from ..contract.parameter_values import value_problem
from ..contract.ports import UNKNOWN, Port, Type, type_of
from ..contract.store_mark import stored_problem

Environment = dict[Any, Any]
Getter = Callable[[Environment], Any]


def getter(source: Source) -> Getter:
    """Make a function that finds a source's value in the environment."""
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
    """Make a function that finds an argument's value, in the form that the node takes."""
    get = getter(arg.source)
    if isinstance(arg.source, Const):
        value = _typed(parameter, arg.source.value)
        if isinstance(value, list):
            return lambda environment: list(value)  # a node may change its list; the next call gets its own
        return lambda environment: value
    if parameter.type.kind == "list" and parameter.is_port:

        def lifted(environment: Environment) -> Any:
            value = get(environment)
            return value if value is None or isinstance(value, list | tuple) else [value]

        return lifted
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
            role = parameter.path == "source"
            value = [locate(v, base, role) for v in value] if isinstance(value, list) else locate(value, base, role)
            problem = stored_problem(value)
            if problem is not None:
                raise NodeError(f"`{parameter.name}`: {problem}")
        return _typed(parameter, value)

    return checked


def _typed(parameter: Input, value: Any) -> Any:
    """A checked plain value in the Python type that the node's function declares."""
    return _as(parameter.type, value)


def _as(type: Type, value: Any) -> Any:
    if value is None:
        return None
    if type.kind == "list" and type.item is not None and isinstance(value, list | tuple):
        return [_as(type.item, v) for v in value]
    if type.kind == "path":
        return Path(value)
    if type.kind == "enum" and type.cls is not None:
        return type.cls(value)
    return value


def entries_of(value: Any) -> Iterable[Any]:
    """The entries of a list, the value itself if it is none, and nothing for None."""
    return value if isinstance(value, list | tuple) else () if value is None else (value,)


def facts_of(value: Any) -> dict[str, Any]:
    """Collect the facts of a value. An error in a node library's `facts` becomes a fact, so the record is written."""
    if not isinstance(value, Port):
        return {}
    try:
        return dict(value.facts())
    except Exception as error:
        return {"facts": f"failed: {type(error).__name__}: {error}"}


def summary(call: Call, arguments: Mapping[str, Any]) -> dict[str, str]:
    """The arguments of a call as text: the type, shape and dtype of a value, or the literal."""
    found = {}
    for name in call.type.inputs:
        if name in arguments:
            found[name] = in_words(arguments[name])[:200].strip()
    return found


def in_words(value: Any) -> str:
    """Describe a value in one line: its type with its facts, or the literal. For a list, its length and first entry."""
    if isinstance(value, list | tuple) and any(isinstance(v, Port) for v in value):
        return f"{len(value)} x {in_words(value[0])}"
    if not isinstance(value, Port):
        return f"{type_of(value)} {value}" if type_of(value) is not UNKNOWN else type(value).__name__
    facts = facts_of(value)
    text = ", ".join(f"{v}" if k in ("value", "dtype") else f"{k} {v}" for k, v in facts.items())
    return f"{type(value).__name__} {text}"


def place_of(call: Call | None, parameter: str) -> str:
    """The origin of the value of a parameter of a call, in brackets; empty if it is not known."""
    arg = call.args.get(parameter) if call is not None else None
    if arg is None:
        return ""
    place = f"{arg.span.file}:{arg.span.line}:{arg.span.column}" if arg.span is not None else ""
    found = ", ".join(part for part in (place, arg.given) if part)
    return f" ({found})" if found else ""
