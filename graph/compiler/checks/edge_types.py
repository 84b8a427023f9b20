"""Check the types of edges, loops and interpolated values in a resolved graph, before folding."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import networkx as nx

from ...contract.diagnostics import Diagnostic, Related
from ...contract.ports import PLAIN, Type, accepts, misfit
from ...contract.source_spans import Span
from ...contract.suggestions import suggest
from ..frontend.names import MAX_HINTS
from ..frontend.references import passed_on
from ..ir import (
    BROKEN,
    Arg,
    Call,
    Const,
    Format,
    Graph,
    Input,
    Items,
    Loop,
    Ref,
    Source,
    Var,
    leaves,
)
from ..types import Types, bind


def types(graph: Graph) -> Iterator[Diagnostic]:
    """Report edges of the wrong type, loops over values that are not lists, and state that changes its type."""
    known = Types(graph)
    refused: list[Arg] = []
    for constraint in graph.constraints:
        declared = constraint.declared
        here = () if declared.span is None else (Related(f"`{declared.name}` is declared here", declared.span),)
        for found in _edge(constraint.subject, declared.type, constraint.arg, known, {}, None, ()):
            yield replace(found, related=(*found.related, *here))
            refused.append(constraint.arg)
    for item, around in graph.walk():
        if isinstance(item, Call):
            bound: dict[str, Type] = {}
            for name, arg in item.args.items():
                if passed_on(arg, refused):
                    continue
                parameter = item.type.inputs[name]
                yield from _edge(f"`{name}` of {item.type.name}", parameter.type, arg, known, bound, item, around)
        else:
            yield from _loop(item, known)
    yield from _interpolations(graph, known)


def _edge(
    subject: str,
    target: Type,
    arg: Arg,
    known: Types,
    bound: dict[str, Type],
    call: Call | None,
    around: tuple[Loop, ...],
) -> Iterator[Diagnostic]:
    if isinstance(arg.source, Items) and target.kind == "list" and target.item is not None:
        for item, span in zip(arg.source.items, arg.source.spans, strict=True):
            entry = Arg(item, span, known.text(item))
            yield from _edge(subject, target.item, entry, known, bound, call, around)
            if isinstance(item, Const) and item is not BROKEN and (problem := misfit(target.item, item.value)):
                yield Diagnostic("bad-value", f"{subject}: {problem}", span)
        return
    if arg.source is BROKEN or (isinstance(arg.source, Const) and target.kind != "var"):
        return  # `values` reports literals
    found = known.of(arg.source)
    before = dict(bound)
    if accepts(target, found, bound):
        return
    expected = bind(target, before)
    text = arg.text or known.text(arg.source)
    origin, origin_span = _origin(arg, known)
    label = f"{found}{origin}"
    related = () if origin_span is None or arg.span is None else (Related("made here", origin_span),)
    suggestion = _suggestion(expected, text, call, around, known)
    help = f"did you mean `${suggestion}`?" if suggestion else _redeclare(arg.source, expected)
    message = f"{subject} takes {expected}, but `{text}` is {found}"
    yield Diagnostic("type-mismatch", message, arg.span, label, related, help)


def _origin(arg: Arg, known: Types) -> tuple[str, Span | None]:
    """Describe the source of a value as text, and give its place in the file."""
    source = arg.source
    if isinstance(source, Ref) and source.node in known.items:
        item = known.items[source.node]
        kind = item.type.name if isinstance(item, Call) else "a loop"
        kind += f", by {item.given}" if isinstance(item, Call) and item.given else ""
        elsewhere = item.span and arg.span and item.span.file != arg.span.file
        line = f" at {f'{item.span.file}:' if elsewhere else 'line '}{item.span.line}" if item.span else ""
        return f", from `{source.node}` ({kind}){line}", item.span
    if isinstance(source, Var):
        return f", a variable of loop `{source.loop}`", None
    if isinstance(source, Input):
        declared = known.graph.inputs.get(source.name)
        return ", an input", declared.span if declared else None
    return "", None


def _redeclare(source: Source, expected: Type) -> str | None:
    if not isinstance(source, Input) or expected.is_port:
        return None
    choices = [str(choice) for choice in expected.choices if not isinstance(choice, bool)]  # no bools in an input
    declaration = f"enum: [{', '.join(choices)}]" if expected.kind == "enum" else f"type: {expected}"
    return f"declare input `{source.name}` as `{declaration}`"


def _suggestion(target: Type, text: str, call: Call | None, around: tuple[Loop, ...], known: Types) -> str | None:
    """The visible value of the right type whose name is most similar to `text`; None if no value has the type.

    If no name is similar, the last value in the order of execution.
    """
    known.suggestions += 1
    if call is None or not target.is_port or known.suggestions > MAX_HINTS:
        return None
    names: list[str] = []
    for loop in around:
        for name in (*loop.over, *loop.carry):
            if accepts(target, known.of(Var(loop.id, name))):
                names.append(name)
    levels = [known.graph, *(loop.body for loop in around)]
    for level in levels:
        order = known.order(level)
        here = next((id for id in level.items if call.id == id or call.id.startswith(f"{id}.")), None)
        after = {here, *nx.descendants(order, here)} if here is not None else set()
        for id in nx.topological_sort(order):
            item = level.items[id]
            ports = [o.name for o in item.type.outputs] if isinstance(item, Call) else list(item.body.outputs)
            for position, port in enumerate(ports):
                if (
                    id not in after
                    and known.of(Ref(id, port)).kind != "unknown"
                    and accepts(target, known.of(Ref(id, port)))
                ):
                    shown = _visible(Ref(id, port), position == 0, call.id, known.graph)
                    names += [shown] if shown is not None else []
    return suggest(text.removeprefix("$"), names) or (names[-1] if names else None)


def _visible(ref: Ref, is_first: bool, reader: str, graph: Graph) -> str | None:
    """The text of a reference to a node; None if the reader cannot see it: a composite shows only its outputs."""
    composites = {path for path, *_ in graph.composites}
    here = _composite(reader, composites)
    if _composite(ref.node, composites) == here:
        name = ref.node.rsplit(".", 1)[-1]
        return name if is_first else f"{name}.{ref.port}"
    return next((text for path, text in graph.exposed.get(ref, ()) if _composite(path, composites) == here), None)


def _composite(path: str, composites: set[str]) -> str:
    """The path of the composite that holds an item; empty for the root file."""
    return max((c for c in composites if path.startswith(f"{c}.")), key=len, default="")


def _loop(loop: Loop, known: Types) -> Iterator[Diagnostic]:
    for name, arg in loop.over.items():
        type = known.of(arg.source)
        if type.kind != "unknown" and type.element is None:
            message = (
                f"`for` needs a list or a schedule for `{name}`, but `{arg.text or known.text(arg.source)}` is {type}"
            )
            yield Diagnostic("type-mismatch", message, arg.span, str(type) + _origin(arg, known)[0])
    for name, arg in loop.carry.items():
        first, after = known.of(arg.source), loop.body.outputs.get(name)
        if after is None:
            continue
        then = known.of(after.source)
        if not (accepts(first, then) and accepts(then, first)):
            message = f"loop `{loop.id}` carries `{name}` as {first}, but yields {then}"
            related = (Related(f"carried here, {first}", arg.span),) if arg.span else ()
            label = f"{then}{_origin(after, known)[0]}"
            yield Diagnostic("yield-mismatch", message, after.span, label, related)


def _interpolations(graph: Graph, known: Types) -> Iterator[Diagnostic]:
    for arg in all_arguments(graph):
        for leaf in interpolated(arg.source):
            type = known.of(leaf)
            if type.kind not in (*PLAIN, "enum", "unknown", "null"):
                where = f" in `{arg.text}`" if arg.text else ""
                message = f"{type} cannot be interpolated{where}; only text, numbers and paths can"
                yield Diagnostic("bad-value", message, arg.span)


def all_arguments(graph: Graph) -> Iterator[Arg]:
    """Every argument of a graph: of its items, of `yield` in loops, of outputs and composites."""
    for item, _ in graph.walk():
        yield from item.sources
        if isinstance(item, Loop):
            yield from item.body.outputs.values()
    yield from graph.outputs.values()
    yield from (constraint.arg for constraint in graph.constraints)


def interpolated(source: Source) -> Iterator[Source]:
    """The sources that are interpolated in strings inside a source."""
    if isinstance(source, Format):
        yield from leaves(source)
    elif isinstance(source, Items):
        for item in source.items:
            yield from interpolated(item)
