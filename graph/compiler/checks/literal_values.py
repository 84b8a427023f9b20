"""values: check literals against their parameters and bounds, and the lists of loops, after folding."""

from __future__ import annotations

from collections.abc import Iterator, Set
from typing import Any

from ...contract.diagnostics import Diagnostic
from ...contract.parameter_values import value_problem
from ...contract.source_spans import Span
from ...contract.store_mark import stored_problem
from ..frontend.declarations import input_problem
from ..frontend.references import passed_on
from ..ir import BROKEN, Arg, Call, Const, Graph, Items, Loop


def values(graph: Graph, mistyped: Set[Span | None] = frozenset()) -> Iterator[Diagnostic]:
    """Report literals that do not fit their parameter, and lists that loops cannot iterate over.

    `mistyped` holds the places of edges whose wrong type was already reported.
    """
    refused: list[Arg] = []
    for constraint in graph.constraints:
        source = constraint.arg.source
        if isinstance(source, Const) and source is not BROKEN and source.value is not None:
            problem = input_problem(constraint.declared, source.value)
            if problem is not None:
                yield _bad(constraint.subject, problem, constraint.arg)
                refused.append(constraint.arg)
    for item, _ in graph.walk():
        if isinstance(item, Call):
            for name, arg in item.args.items():
                parameter = item.type.inputs[name]
                if (
                    isinstance(arg.source, Const)
                    and arg.source is not BROKEN
                    and not passed_on(arg, refused)
                    and arg.span not in mistyped
                ):
                    problem = value_problem(parameter, arg.source.value)
                    if problem is None and parameter.path in ("read", "source"):
                        problem = stored_problem(arg.source.value)
                    if problem is not None:
                        yield _bad(f"`{name}` of {item.type.name}", problem, arg, parameter.doc)
        else:
            yield from _lists(item)


def _bad(subject: str, problem: str, arg: Arg, doc: str = "") -> Diagnostic:
    given = f" (from {arg.given})" if arg.given else ""
    written = isinstance(arg.source, Const) and arg.text.startswith("$")
    value = f" (from `{arg.text}`)" if written and not arg.given else ""
    return Diagnostic("bad-value", f"{subject}: {problem}{given}{value}", arg.span, help=arg.hint or doc or None)


def _lists(loop: Loop) -> Iterator[Diagnostic]:
    lengths: dict[str, int] = {}
    for name, arg in loop.over.items():
        value = _value(arg)
        if isinstance(arg.source, Const) and value in (None, []):
            found = "null" if value is None else "an empty list"
            yield Diagnostic("bad-value", f"`for` has nothing to loop over: `{name}` is {found}", arg.span)
        elif isinstance(value, list):
            lengths[name] = len(value)
        elif isinstance(arg.source, Items):
            lengths[name] = len(arg.source.items)
    if len(set(lengths.values())) > 1:
        text = ", ".join(f"`{n}` has {length}" for n, length in lengths.items())
        yield Diagnostic("bad-value", f"lists of one loop must have the same length: {text}", loop.span)


def _value(arg: Arg) -> Any:
    return arg.source.value if isinstance(arg.source, Const) else None
