"""Types of parameters and ports, and the rules for connecting them.

A value on an edge is either *plain* (str, int, float, bool, path, an enumeration, a list of these), which can
also be written in a file, or an instance of a `Port` subclass, which only a node can make. `Type` describes
both; `accepts` holds all typing rules.
"""

from __future__ import annotations

import enum
import inspect
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar, Union

from .plain_values import number_problem, text_problem

PLAIN = ("str", "int", "float", "bool", "path")


class Port:
    """Base class of values that flow along edges and cannot be written in a file.

    `item` is the port type that a loop over the value yields; a class that sets it has `__len__` and
    `__iter__`. `partial` is True if readers may read named parts of a value (`Reads`). A class whose parts must be
    acquired before use defines `parts()`, `acquire(part, run)`, `prefetch(part, run)` and `release(part)`.
    `on_run_device` is False if the tensors of a value may lie in the host's memory although the run is on a GPU.
    """

    item: ClassVar[type[Port] | None] = None
    partial: ClassVar[bool] = False
    on_run_device: ClassVar[bool] = True

    def facts(self) -> dict[str, Any]:
        """Plain facts for tables and records, such as `shape` and `dtype`; cheap, and without device work."""
        return {}

    def finite_tensors(self) -> Mapping[str, Any]:
        """Tensors that must hold finite numbers only, by name; the name may be empty if there is one. None by default.

        A tensor whose numbers may be infinite, such as a mask, is left out.
        """
        return {}


@dataclass(frozen=True)
class Type:
    """The type of a parameter, a port, an input or a loop variable."""

    kind: Literal["port", "str", "int", "float", "bool", "path", "enum", "list", "var", "null", "unknown"]
    name: str = ""
    choices: tuple[str | int | float, ...] = ()
    item: Type | None = None
    cls: type | None = field(default=None, compare=False)

    def __str__(self) -> str:
        if self.kind == "list":
            return f"list[{self.item}]"
        if self.kind == "enum":
            return " | ".join(c if isinstance(c, str) else show(c) for c in self.choices)
        return self.name if self.kind in ("port", "var") else self.kind

    @property
    def is_port(self) -> bool:
        """True if the value comes from a node: ports, lists of ports, and type variables."""
        if self.kind == "list":
            assert self.item is not None
            return self.item.is_port
        return self.kind in ("port", "var")

    @property
    def element(self) -> Type | None:
        """The type of a loop variable over this type; None if a loop cannot iterate over it."""
        if self.kind == "list":
            return self.item
        if self.cls is not None and issubclass(self.cls, Port) and self.cls.item is not None:
            return port_type(self.cls.item)
        return None


STR, INT, FLOAT, BOOL, PATH = (Type(k) for k in ("str", "int", "float", "bool", "path"))
NULL, UNKNOWN = Type("null"), Type("unknown")


def port_type(cls: type[Port]) -> Type:
    return Type("port", cls.__name__, cls=cls)


def list_of(item: Type) -> Type:
    return Type("list", item=item)


@dataclass(frozen=True)
class Annotation:
    """A Python annotation read as a sgd type.

    Attributes:
        type: The type.
        optional: Whether None is allowed.
        extras: The other arguments of `Annotated`.
        fixed: The length of a tuple such as `tuple[X, X]`; None for all other types.
    """

    type: Type
    optional: bool
    extras: tuple[Any, ...] = ()
    fixed: int | None = None

    @property
    def length(self) -> tuple[int, int | None] | None:
        """The least and the largest length of a list; None if any length will do."""
        if self.fixed is not None:
            return self.fixed, self.fixed
        limits = [limit for extra in self.extras for limit in (extra, *getattr(extra, "metadata", ()))]
        least = max((limit.min_length for limit in limits if hasattr(limit, "min_length")), default=0)
        most = min((limit.max_length for limit in limits if hasattr(limit, "max_length")), default=None)
        return None if not least and most is None else (least, most)


def from_annotation(annotation: Any) -> Annotation:
    """Read a Python annotation.

    Raises:
        TypeError: If the annotation is not supported.
    """
    extras: tuple[Any, ...] = ()
    if typing.get_origin(annotation) is Annotated:
        annotation, *rest = typing.get_args(annotation)
        extras = tuple(rest)
    origin = typing.get_origin(annotation)
    if origin in (Union, types.UnionType):
        members = [a for a in typing.get_args(annotation) if a is not type(None)]
        if len(members) == len(typing.get_args(annotation)) or len(members) != 1:
            raise TypeError(f"unions other than `X | None` are not supported: {annotation}")
        inner = from_annotation(members[0])
        return Annotation(inner.type, True, extras + inner.extras, inner.fixed)
    entries = typing.get_args(annotation)
    fixed = len(entries) if origin is tuple and ... not in entries else None
    return Annotation(_read(annotation), False, extras, fixed)


def _read(annotation: Any) -> Type:
    plain = {str: STR, int: INT, float: FLOAT, bool: BOOL, Path: PATH}
    origin = typing.get_origin(annotation)
    if isinstance(annotation, TypeVar):
        return Type("var", annotation.__name__)
    if origin is Literal:
        return Type("enum", choices=typing.get_args(annotation))
    if origin in (list, tuple):
        return list_of(from_annotation(typing.get_args(annotation)[0]).type)
    if annotation in plain:
        return plain[annotation]
    if inspect.isclass(annotation) and issubclass(annotation, enum.Enum):
        return Type("enum", choices=tuple(m.value for m in annotation), cls=annotation)
    if inspect.isclass(annotation) and issubclass(annotation, Port):
        return port_type(annotation)
    raise TypeError(f"not a type a node can take or return: {annotation!r}")


def from_name(name: str, ports: Mapping[str, type[Port]]) -> Type | None:
    """Read a type name written in a file (`int`, `list[str]`, `Frames`), None if there is no such type."""
    name = name.strip()
    if name.startswith("list[") and name.endswith("]"):
        inner = from_name(name[5:-1], ports)
        return list_of(inner) if inner is not None else None
    if name in PLAIN:
        return Type(name)  # type: ignore[arg-type]
    return port_type(ports[name]) if name in ports else None


def accepts(target: Type, source: Type, bound: dict[str, Type] | None = None) -> bool:
    """Whether `target` accepts a value of type `source`.

    An int is also a float, a string is also a path, and a scalar is also a list of one. An enumeration accepts another
    enumeration if all its choices are among its own, and a bool if true and false are. A string, an int and a float
    accept an enumeration if they accept all its choices. A type variable accepts any type, but one type at all its
    places; `bound` collects that type.
    """
    if "unknown" in (target.kind, source.kind) or source.kind == "null":
        return True
    if target.kind == "var":
        if bound is None:
            return True
        known = bound.setdefault(target.name, source)
        if accepts(known, source):
            return True
        if accepts(source, known):
            bound[target.name] = source
            return True
        return False
    if target.kind == "list":
        assert target.item is not None
        return accepts(target.item, source.item if source.kind == "list" and source.item else source, bound)
    if target.kind == "port":
        if target.cls is not None and source.cls is not None and source.kind == "port":
            return issubclass(source.cls, target.cls)
        return source.kind == "port" and source.name == target.name
    if target.kind == "enum":
        wanted = source.choices if source.kind == "enum" else (False, True) if source.kind == "bool" else None
        return wanted is not None and all(_chosen(choice, target.choices) for choice in wanted)
    if source.kind == "enum" and target.kind in ("str", "int", "float"):
        return all(accepts(target, type_of(choice)) for choice in source.choices)
    widened = {"float": ("float", "int"), "path": ("path", "str")}
    return source.kind in widened.get(target.kind, (target.kind,))


def _chosen(value: Any, choices: Iterable[Any]) -> bool:
    """Whether a value is one of the choices; `true` is not 1."""
    return any(value == choice and isinstance(value, bool) == isinstance(choice, bool) for choice in choices)


def type_of(value: Any) -> Type:
    """The type of a literal."""
    if value is None:
        return NULL
    if isinstance(value, bool):
        return BOOL
    for cls, result in ((int, INT), (float, FLOAT), (str, STR), (Path, PATH)):
        if isinstance(value, cls):
            return result
    if isinstance(value, list | tuple):
        return list_of(join(map(type_of, value)))
    if isinstance(value, Port):
        return port_type(type(value))
    return UNKNOWN


def join(members: Iterable[Type]) -> Type:
    """The narrowest type that accepts all `members`; `unknown` if there is none."""
    result: Type | None = None
    for member in members:
        if result is None or accepts(member, result):
            result = member
        elif not accepts(result, member):
            return UNKNOWN
    return result or UNKNOWN


def misfit(type: Type, value: Any) -> str | None:
    """The problem with the literal `value` as a value of `type`; None if there is none."""
    if value.__class__ is NUMBERS.get(type.kind) and number_problem(value) is None:
        return None  # a quick answer for values over edges
    if isinstance(value, dict):
        return "a mapping is not a value"
    if type.kind == "var":
        return None
    if type.is_port:
        return f"{type} comes from a node: write a reference such as `$name`"
    if type.kind == "list":
        assert type.item is not None
        for entry in value if isinstance(value, list | tuple) else [value]:
            problem = misfit(type.item, entry)
            if problem:
                return problem
        return None
    if type.kind == "enum":
        if not _chosen(value, type.choices):
            return f"{show(value)} is not one of {', '.join(show(c) for c in type.choices)}"
        return None
    if isinstance(value, int) and number_problem(value) is not None:
        return f"{show(value)} is too large for a number"
    if isinstance(value, str) and type.kind in ("str", "path"):
        return text_problem(value)
    if accepts(type, type_of(value)) and value is not None:
        return None
    # YAML reads 0110 and 1e5 as numbers, and `true` as a truth value, so the value may differ from the text.
    quotes = ": put it in quotes" if type.kind == "str" and isinstance(value, bool | int | float) else ""
    return f"{show(value)} is not {ARTICLE[type.kind]}{quotes}"


NUMBERS: dict[str, Any] = {"int": int, "float": float, "bool": bool}
"""The class of each kind of plain number."""

ARTICLE = {
    "str": "a string",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "path": "a path",
    "unknown": "a value",
    "null": "null",
}


def plain(value: Any) -> Any:
    """A parameter's default as plain data, as in a workflow file."""
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    if isinstance(value, enum.Enum):
        return value.value
    return str(value) if isinstance(value, Path) else value


def show(value: Any) -> str:
    """A literal as in a workflow file, at most 60 characters long."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list | tuple):
        text = f"[{', '.join(map(show, value))}]"
    else:
        text = f'"{value}"' if isinstance(value, str | Path) else str(value)
    return text if len(text) <= 60 else text[:57] + "…"
