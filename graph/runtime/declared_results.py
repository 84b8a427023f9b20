"""Compare the result of a node's function with the declaration: the number of outputs, and the type of each value."""

from __future__ import annotations

import dataclasses
import sys
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

from ..contract.errors import WrongValue
from ..contract.node import NodeType, Output
from ..contract.ports import Type, accepts, show, type_of

Problem = Callable[[Any], str | None]
"""A function that returns the problem with a value, as the end of a sentence such as "it returned …"; None if none."""


def result_reader(type: NodeType) -> Callable[[Any], Sequence[Any]]:
    """A function that takes the result of a node's function and returns the value of each output, in order.

    It raises a `WrongValue` if the result is not as declared.
    """
    outputs = type.outputs
    checks = [(output.name, output.type, _problem_of(output)) for output in outputs]
    if len(outputs) == 1 and not type.tuple_result:
        [(name, declared, problem)] = checks

        def single(result: Any) -> Sequence[Any]:
            found = problem(result)
            if found is not None:
                raise _wrong(name, declared, found)
            return (result,)

        return single

    def several(result: Any) -> Sequence[Any]:
        if result is None and all(output.optional for output in outputs):
            return (None,) * len(outputs)
        names, help = ", ".join(f"`{name}`" for name, _, _ in checks), _tuple_help(outputs)
        if not outputs:
            raise WrongValue(f"it returned {_called(result)}, but declares no output", help="return nothing")
        if not isinstance(result, tuple | list):
            raise WrongValue(
                f"it returned {_called(result)} in place of its outputs {names}", help=_tuple_help(outputs)
            )
        if len(result) != len(outputs):
            values = f"{len(result)} value{'s' * (len(result) != 1)}"
            raise WrongValue(f"it returned {values} for its outputs {names}", help=help)
        for (name, declared, problem), value in zip(checks, result, strict=True):
            found = problem(value)
            if found is not None:
                raise _wrong(name, declared, found)
        return result

    return several


def _wrong(name: str, declared: Type, found: str) -> WrongValue:
    return WrongValue(f"its output `{name}` is {declared}, but {found}", help=f"return {_article(str(declared))}")


def _article(word: str) -> str:
    return f"{'an' if word[:1] in 'AEIOUaeiou' else 'a'} {word}"


def _tuple_help(outputs: Sequence[Output]) -> str:
    return f"return a tuple: {', '.join(f'{output.name}: {output.type}' for output in outputs)}"


def _called(value: Any) -> str:
    """The kind of a value in words."""
    return "None" if value is None else f"{_article(type(value).__name__)}"


def _problem_of(output: Output) -> Problem:
    inner = _of_type(output.type, output.length)
    if output.optional:
        return lambda value: None if value is None else inner(value)
    return inner


def _of_type(declared: Type, length: tuple[int, int | None] | None = None) -> Problem:
    if declared.kind == "list" and declared.item is not None:
        return _of_list(_of_type(declared.item), length)
    if declared.kind == "port" and declared.cls is not None:
        return _of_port(declared.cls)
    if declared.kind in ("var", "unknown", "port"):
        return lambda value: None

    def plain(value: Any) -> str | None:
        if declared.cls is not None and isinstance(value, declared.cls):
            return None
        if declared.kind == "enum":
            fits = any(value == c and isinstance(value, bool) == isinstance(c, bool) for c in declared.choices)
            return None if fits else f"it returned {show(value)}"
        return None if value is not None and accepts(declared, type_of(value)) else f"it returned {_called(value)}"

    return plain


def _of_list(item: Problem, length: tuple[int, int | None] | None) -> Problem:
    least, most = length or (0, None)

    def listed(value: Any) -> str | None:
        if not isinstance(value, list | tuple):
            return f"it returned {_called(value)}"
        if len(value) < least or (most is not None and len(value) > most):
            wanted = str(least) if least == most else f"{least} or more" if most is None else f"{least} to {most}"
            return f"the list that it returned has {len(value)} of {wanted} entries"
        for number, entry in enumerate(value):
            found = item(entry)
            if found is not None:
                return f"{found} as entry {number} of the list"
        return None

    return listed


def _of_port(cls: type) -> Problem:
    def instance(value: Any) -> str | None:
        if not isinstance(value, cls):
            return f"it returned {_called(value)}"
        for name, fits, wanted in fields_of(type(value)):
            field = getattr(value, name, None)
            if not fits(field):
                return f"the {type(value).__name__} that it returned has {_called(field)} as `{name}`, not {wanted}"
        return None

    return instance


Fits = Callable[[Any], bool]
Fields = tuple[tuple[str, Fits, str], ...]
_FIELDS: dict[type, tuple[Fields, int | None]] = {}


def fields_of(cls: type) -> Fields:
    """The fields of a dataclass that are compared with their annotations: name, comparison, annotation.

    Numbers and text are only compared with None, since Python's own dataclasses convert nothing.
    """
    known = _FIELDS.get(cls)
    # An annotation may name a module that is not loaded yet.
    if known is None or known[1] not in (None, len(sys.modules)):
        found, unknown = [], False
        for field in dataclasses.fields(cls) if dataclasses.is_dataclass(cls) else ():
            hint = _resolved(cls, field.type)
            fits = None if hint is None else _fits(hint)
            unknown = unknown or hint is None
            if fits is not None and not (field.default is None and fits(None)):
                found.append((field.name, _or_default(fits, field.default), _text(field.type)))
        known = _FIELDS[cls] = tuple(found), len(sys.modules) if unknown else None
    return known[0]


def _or_default(fits: Fits, default: Any) -> Fits:
    """A comparison that also takes a default of None, which many leave out of the annotation."""
    return fits if default is not None else lambda value: value is None or fits(value)


def _text(annotation: Any) -> str:
    return annotation if isinstance(annotation, str) else getattr(annotation, "__name__", str(annotation))


class _Loaded(dict[str, Any]):
    """Names of loaded modules, for annotations that name a module which is imported for type checkers only."""

    def __init__(self, own: Mapping[str, Any]) -> None:
        super().__init__()
        self.own = own

    def __missing__(self, name: str) -> Any:
        if name in self.own or name not in sys.modules:
            raise KeyError(name)
        return sys.modules[name]


def _resolved(cls: type, annotation: Any) -> Any:
    """The annotation of a field as a type; None if it names something that is not known at run time."""
    for owner in cls.__mro__:
        own = vars(sys.modules.get(owner.__module__, SimpleNamespace()))
        try:
            holder = SimpleNamespace(__annotations__={"field": annotation})
            return typing.get_type_hints(holder, globalns=own, localns=_Loaded(own))["field"]
        except Exception:
            continue
    return None


def _sequence_of(inner: Fits | None) -> Fits:
    """Compare the items of lists and tuples. Another sequence may make its items only when they are read."""

    def fits(value: Any) -> bool:
        if isinstance(value, list | tuple):
            return inner is None or all(map(inner, value))
        return isinstance(value, Sequence) and not isinstance(value, str | bytes)

    return fits


def _fits(hint: Any) -> Fits | None:
    """A function that compares a value with a type; None if values cannot be compared with this type."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        members = [_fits(member) for member in arguments]
        return None if None in members else lambda value: any(fits(value) for fits in members if fits is not None)
    if hint is type(None):
        return lambda value: value is None
    if hint in (int, float, str, bool):
        return lambda value: value is not None
    if isinstance(origin, type) and issubclass(origin, Mapping):
        inner = _fits(arguments[1])
        return lambda value: isinstance(value, Mapping) and (inner is None or all(map(inner, value.values())))
    if isinstance(origin, type) and issubclass(origin, Sequence):
        return _sequence_of(_fits(arguments[0]))
    if isinstance(hint, type) and hint not in (object, Any) and not getattr(hint, "_is_protocol", False):
        return lambda value: isinstance(value, hint)
    return None
