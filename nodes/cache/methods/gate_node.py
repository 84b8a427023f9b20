"""The decorator `@gate_node` turns a function into a node type. Torch-free.

The function takes parameters and returns a `Gate`.
"""

from __future__ import annotations

import functools
import inspect
import re
import typing
from collections.abc import Callable, Iterator
from dataclasses import field, make_dataclass, replace
from pathlib import Path
from typing import Any, Concatenate, ParamSpec

from ....graph.contract.diagnostics import Diagnostic
from ....graph.contract.errors import NodeError
from ....graph.contract.facts import UNKNOWN, NodeFacts, Unknown
from ....graph.contract.node import Here, NodeFunction, node
from ..gate import Gate, GateFacts
from ..gate_tables import table_problem

P = ParamSpec("P")


def gate_node(
    name: str, *, version: int = 1, partial: bool = False
) -> Callable[[Callable[P, Gate]], NodeFunction[Concatenate[Here, P], Gate]]:
    """Make a node type of a function that describes a gate.

    The node has the function's parameters and docstring. It names the gate by its own path in the file. `sgd check`
    calls the same function: an error that the function raises becomes a problem of the named parameter, and
    `denoiser.predict` knows the returned gate before the run.

    Args:
        name: The name that files use, `cache.method`.
        version: As in `@node`.
        partial: Whether `sgd check` calls the function even if some parameters are not known. These parameters are
            `UNKNOWN`.
    """

    def make(describes: Callable[P, Gate]) -> NodeFunction[Concatenate[Here, P], Gate]:
        hints = typing.get_type_hints(describes, include_extras=True)
        signature = inspect.signature(describes)

        @functools.wraps(describes)
        def function(here: Here, *args: P.args, **kwargs: P.kwargs) -> Gate:
            return replace(describes(*args, **kwargs), name=here)

        here = inspect.Parameter("here", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=Here)
        parameters = [here, *signature.parameters.values()]
        function.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        function.__annotations__ = {"here": Here, **hints}
        describe, check = _functions(name, describes, tuple(signature.parameters), partial)
        return node(name, version=version, describe=describe, check=check)(function)

    return make


def _functions(
    name: str, describes: Callable[..., Gate], parameters: tuple[str, ...], partial: bool
) -> tuple[Callable[[NodeFacts], GateFacts | None], Callable[[NodeFacts], Iterator[Diagnostic]]]:
    """Make the functions `describe` and `check` of a gate's node type, and the class of their facts."""
    title = "".join(word.capitalize() for word in re.split(r"[._]", name))
    facts_class = make_dataclass(
        f"{title}Facts",
        [(parameter, object | Unknown, field(default=UNKNOWN)) for parameter in parameters],
        bases=(NodeFacts,),
        frozen=True,
        kw_only=True,
    )

    def arguments(facts: NodeFacts) -> dict[str, Any]:
        values = {parameter: getattr(facts, parameter) for parameter in parameters}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    def describe(facts: NodeFacts) -> GateFacts | None:
        values = arguments(facts)
        if UNKNOWN in values.values():
            return None
        try:
            return GateFacts((describes(**values),))
        except NodeError:
            return None

    def check(facts: NodeFacts) -> Iterator[Diagnostic]:
        values = arguments(facts)
        if partial or UNKNOWN not in values.values():
            try:
                describes(**values)
            except NodeError as error:
                yield from error.diagnostics
        table = getattr(facts, "table", None)
        found = table_problem(name.removeprefix("cache."), table) if isinstance(table, str | Path) else None
        if found is not None:
            yield found

    describe.__annotations__["facts"] = check.__annotations__["facts"] = facts_class
    return describe, check
