"""Facts: typed statements about values and parameters that hold before anything runs.

A node type may add four functions without heavy imports, each with one argument, `facts`:

    @dataclass(frozen=True, kw_only=True)
    class LetterWeighFacts(NodeFacts):
        letter: LetterFacts = LetterFacts()
        unit: str | None = None

    def describe(facts: LetterWeighFacts) -> WeightFacts:
        return WeightFacts(pages=facts.letter.pages)

    @node("letter.weigh", describe=describe)
    def weigh(letter: Letter, *, unit: str = "g") -> Weight: ...

The class has one attribute for each parameter of the node. `@node` compares them with the signature.

- A value that comes from another node is described by a subclass of `Facts`. If nothing is known about the value,
  the attribute is that class without arguments. None stands for an optional parameter that is not given.
- A list of values from other nodes is a tuple of facts (`letters: tuple[LetterFacts, ...] = ()`), one for each entry,
  if the file lists the entries or gives one value; else it is empty.
- A plain value stands as it is, a list as a tuple. None stands for a value that is not known yet. If the annotation
  of an attribute includes `Unknown`, `UNKNOWN` stands for it, and None for a parameter that is not given.
"""

from __future__ import annotations

import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from enum import Enum
from types import MappingProxyType
from typing import Any, Final, TypeVar

from .diagnostics import Diagnostic
from .errors import NodeError

F = TypeVar("F", bound="NodeFacts")


class Unknown(Enum):
    """The type of `UNKNOWN`."""

    UNKNOWN = "unknown"


UNKNOWN: Final = Unknown.UNKNOWN
"""A parameter's value that is not known before the run."""


@dataclass(frozen=True)
class Facts:
    """Base class of facts about a value. The default of each attribute means that the fact is not known."""

    def either(self, other: Facts) -> Facts | None:
        """The facts that both share, for a value that is one of two; None if their classes differ."""
        if type(other) is not type(self):
            return None
        blank = type(self)()
        same = {f.name: getattr(self if _equal(self, other, f.name) else blank, f.name) for f in fields(self)}
        return type(self)(**same)


def _equal(one: Facts, other: Facts, name: str) -> bool:
    return bool(getattr(one, name) == getattr(other, name))


@dataclass(frozen=True, kw_only=True)
class NodeFacts:
    """Base class of the facts that a node's functions receive: one attribute for each parameter."""


@dataclass(frozen=True)
class FactsClass:
    """The class of facts of one node type, and the values of unknown facts.

    Attributes:
        cls: A subclass of `NodeFacts`.
        blanks: For each parameter, the attribute's value if nothing is known about it.
        kinds: For each parameter that comes from another node, the class of its facts.
        lists: The parameters among `kinds` whose attribute is a tuple of facts.
    """

    cls: type[NodeFacts]
    blanks: Mapping[str, Any]
    kinds: Mapping[str, type[Facts]]
    lists: frozenset[str] = frozenset()

    def make(self, known: Mapping[str, Any]) -> NodeFacts:
        """Facts from the known parameters. Facts that are not of the declared class count as unknown."""
        fitting = {name: value for name, value in known.items() if self._fits(name, value)}
        return self.cls(**{**self.blanks, **fitting})

    def _fits(self, name: str, value: Any) -> bool:
        kind = self.kinds.get(name)
        if name in self.lists:
            return isinstance(value, tuple) and all(isinstance(entry, self.kinds[name]) for entry in value)
        return value is None or (isinstance(value, kind) if kind is not None else True)


def facts_class(functions: Iterable[Callable[..., Any] | None], parameters: Iterable[str]) -> FactsClass | None:
    """Find the class of facts that a node's functions take; None if there are no functions.

    Raises:
        TypeError: If a function does not take one annotated argument `facts`, the functions take unrelated classes,
            or the attributes are not the node's parameters.
    """
    found = [_annotated(function) for function in functions if function is not None]
    if not found:
        return None
    cls = max(found, key=lambda c: len(c.__mro__))
    stranger = next((c for c in found if not issubclass(cls, c)), None)
    if stranger is not None:
        raise TypeError(
            f"the functions of a node take facts of one class, not of {cls.__name__} and {stranger.__name__}"
        )
    wanted, given = set(parameters), {f.name for f in fields(cls)}
    if wanted != given:
        missing, extra = sorted(wanted - given), sorted(given - wanted)
        texts = [f"lacks {', '.join(missing)}"] if missing else []
        texts += [f"has {', '.join(extra)}, which the node does not"] if extra else []
        raise TypeError(f"{cls.__name__} {' and '.join(texts)}: the class needs one attribute for each parameter")
    kinds: dict[str, type[Facts]] = {}
    blanks: dict[str, Any] = {}
    lists: set[str] = set()
    for name, hint in typing.get_type_hints(cls).items():
        members = typing.get_args(hint) or (hint,)
        kind = next((m for m in members if isinstance(m, type) and issubclass(m, Facts)), None)
        if kind is not None:
            kinds[name], blanks[name] = kind, kind()
            if typing.get_origin(hint) is tuple:
                lists.add(name)
                blanks[name] = ()
        else:
            blanks[name] = UNKNOWN if Unknown in members else None
    return FactsClass(cls, MappingProxyType(blanks), MappingProxyType(kinds), frozenset(lists))


def _annotated(function: Callable[..., Any]) -> type[NodeFacts]:
    cls = typing.get_type_hints(function).get("facts")
    if not (isinstance(cls, type) and issubclass(cls, NodeFacts)):
        raise TypeError(f"{function.__qualname__} takes one argument `facts`, annotated with a subclass of NodeFacts")
    return cls


_PASSED: dict[Callable[..., Any], NodeFacts] = {}


def require(check: Callable[[F], Iterable[Diagnostic]], facts: F) -> None:
    """Check the facts of a call during a run. Facts equal to the last that passed are not checked again.

    Raises:
        NodeError: With the first error that `check` finds.
    """
    if check in _PASSED and _PASSED[check] == facts:
        return
    for found in check(facts):
        if found.severity == "error":
            raise NodeError(found)
    _PASSED[check] = facts
