"""check: everything that can be told about a resolved graph before it runs, as diagnostics.

Pure functions from a graph to diagnostics. `structure` and `types` look at the graph as written; `values` and
`facts` look at it after folding, when literals are in place.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import networkx as nx
from pydantic import TypeAdapter, ValidationError

from ..infer import Types, bind
from ..ir import Arg, Call, Const, Format, Graph, Index, Input, Item, Loop, Ref, Var, dependencies, leaves
from ..literals import problem_with
from ..node import Input as Parameter
from ..ports import PLAIN, Type, accepts, misfit, show
from ..source import Diagnostic, Related, Span
from .prune import live
from .resolve import BROKEN


def structure(graph: Graph) -> Iterator[Diagnostic]:
    """Cycles, at every level."""
    levels = [graph] + [item.body for item, _ in graph.walk() if isinstance(item, Loop)]
    for level in levels:
        for knot in nx.strongly_connected_components(dependencies(level)):
            first = next(id for id in level.items if id in knot)
            if len(knot) > 1 or dependencies(level).has_edge(first, first):
                yield _cycle(level, first, knot)


def _cycle(level: Graph, first: str, knot: set[str]) -> Diagnostic:
    edges = nx.find_cycle(dependencies(level).subgraph(knot), first)
    names = [edge[0] for edge in edges] + [edges[-1][1]]
    spans = [_reads(level.items[reader], read) for read, reader, *_ in edges]
    related = tuple(Related(f"`{edge[1]}` reads `{edge[0]}`", s) for edge, s in zip(edges, spans, strict=True) if s)
    message = "nodes that need each other: " + " -> ".join(f"`{n}`" for n in names)
    help = "to hand a value from one turn to the next, use a loop with `carry`"
    return Diagnostic("cycle", message, level.items[first].span, related=related, help=help)


def _reads(item: Item, id: str) -> Span | None:
    for arg in item.sources:
        if any(isinstance(leaf, Ref) and leaf.node == id for leaf in leaves(arg.source)):
            return arg.span
    if isinstance(item, Loop):
        for inner in item.body.items.values():
            if span := _reads(inner, id):
                return span
    return item.span


def types(graph: Graph) -> Iterator[Diagnostic]:
    """Edges whose two ends do not fit, loops over what cannot be looped over, state that changes its type."""
    known = Types(graph)
    for item, around in graph.walk():
        if isinstance(item, Call):
            bound: dict[str, Type] = {}
            for name, arg in item.args.items():
                parameter = item.type.inputs[name]
                yield from _edge(f"`{name}` of {item.type.name}", parameter.type, arg, known, bound, item, around)
        else:
            yield from _loop(item, known)
    for constraint in graph.constraints:
        yield from _edge(constraint.what, constraint.declared.type, constraint.arg, known, {}, None, ())
    yield from _interpolations(graph, known)


def _edge(
    what: str, target: Type, arg: Arg, known: Types, bound: dict[str, Type], call: Call | None, around: tuple[Loop, ...]
) -> Iterator[Diagnostic]:
    if isinstance(arg.source, Const):
        return  # `values` says more about literals
    found = known.of(arg.source)
    before = dict(bound)
    if accepts(target, found, bound):
        return
    expected = bind(target, before)
    text = arg.text or "it"
    maker = _maker(arg, known)
    label = f"{found}{maker[0]}"
    related = () if maker[1] is None or arg.span is None else (Related("made here", maker[1]),)
    better = _better(expected, call, around, known)
    help = f"did you mean `${better}`?" if better else None
    message = f"{what} takes {expected}, but `{text}` is {found}"
    yield Diagnostic("type-mismatch", message, arg.span, label, related, help)


def _maker(arg: Arg, known: Types) -> tuple[str, Span | None]:
    """Where a value comes from, in words, and where that stands."""
    source = arg.source
    if isinstance(source, Ref) and source.node in known.items:
        item = known.items[source.node]
        kind = item.type.name if isinstance(item, Call) else "a loop"
        line = f" at line {item.span.line}" if item.span else ""
        return f", from `{source.node}` ({kind}){line}", item.span
    if isinstance(source, Var):
        return f", a variable of loop `{source.loop}`", None
    if isinstance(source, Input):
        declared = known.graph.inputs.get(source.name)
        return ", an input", declared.span if declared else None
    return "", None


def _better(target: Type, call: Call | None, around: tuple[Loop, ...], known: Types) -> str | None:
    """The visible name that fits and comes latest in the order of work, to suggest it."""
    if call is None or not target.is_port:
        return None
    names: list[str] = []
    for loop in around:
        for name in (*loop.over, *loop.carry):
            if accepts(target, known.of(Var(loop.id, name))):
                names.append(name)
    levels = [known.graph, *(loop.body for loop in around)]
    for level in levels:
        order = dependencies(level)
        if not nx.is_directed_acyclic_graph(order):
            continue
        here = next((id for id in level.items if call.id == id or call.id.startswith(f"{id}.")), None)
        after = nx.descendants(order, here) | {here} if here in order else set()
        for id in nx.topological_sort(order):
            item = level.items[id]
            ports = [o.name for o in item.type.outputs] if isinstance(item, Call) else list(item.body.outputs)
            for position, port in enumerate(ports):
                if (
                    id not in after
                    and known.of(Ref(id, port)).kind != "unknown"
                    and accepts(target, known.of(Ref(id, port)))
                ):
                    name = id.rsplit(".", 1)[-1]
                    names.append(name if position == 0 else f"{name}.{port}")
    return names[-1] if names else None


def _loop(loop: Loop, known: Types) -> Iterator[Diagnostic]:
    for name, arg in loop.over.items():
        type = known.of(arg.source)
        if type.kind != "unknown" and type.element is None:
            message = f"`for` needs a list or a schedule for `{name}`, but `{arg.text or show(_value(arg))}` is {type}"
            yield Diagnostic("type-mismatch", message, arg.span, str(type) + _maker(arg, known)[0])
        elif isinstance(arg.source, Const) and arg.source.value == []:
            yield Diagnostic("bad-value", f"`for` has nothing to loop over: `{name}` is an empty list", arg.span)
    lengths = {n: len(a.source.value) for n, a in loop.over.items() if isinstance(_value(a), list)}  # type: ignore[union-attr]
    if len(set(lengths.values())) > 1:
        text = ", ".join(f"`{n}` has {length}" for n, length in lengths.items())
        yield Diagnostic("bad-value", f"lists that advance together must have one length: {text}", loop.span)
    for name, arg in loop.carry.items():
        first, after = known.of(arg.source), loop.body.outputs.get(name)
        if after is None:
            continue
        then = known.of(after.source)
        if not (accepts(first, then) and accepts(then, first)):
            message = f"loop `{loop.id}` carries `{name}` as {first}, but yields {then}"
            related = (Related(f"carried here, {first}", arg.span),) if arg.span else ()
            label = f"{then}{_maker(after, known)[0]}"
            yield Diagnostic("yield-mismatch", message, after.span, label, related)


def _interpolations(graph: Graph, known: Types) -> Iterator[Diagnostic]:
    for item, _ in graph.walk():
        for arg in item.sources:
            if isinstance(arg.source, Format):
                for leaf in leaves(arg.source):
                    type = known.of(leaf)
                    if type.kind not in (*PLAIN, "enum", "unknown", "null"):
                        message = f"{type} cannot be interpolated in `{arg.text}`; only text, numbers and paths can"
                        yield Diagnostic("bad-value", message, arg.span)


def _value(arg: Arg) -> Any:
    return arg.source.value if isinstance(arg.source, Const) else None


def values(graph: Graph) -> Iterator[Diagnostic]:
    """Literals that do not fit their parameter; effects in a loop that would write one file again and again."""
    for constraint in graph.constraints:
        source = constraint.arg.source
        if isinstance(source, Const) and source is not BROKEN:
            problem = problem_with(constraint.declared, source.value)
            if problem is not None:
                yield _bad(constraint.what, problem, constraint.arg)
    for item, around in graph.walk():
        if isinstance(item, Call):
            for name, arg in item.args.items():
                parameter = item.type.inputs[name]
                if isinstance(arg.source, Const) and arg.source is not BROKEN:
                    problem = value_problem(parameter, arg.source.value)
                    if problem is not None:
                        yield _bad(f"`{name}` of {item.type.name}", problem, arg, parameter.doc)
                if around and parameter.path == "write" and item.type.effect and not _changes(arg, around):
                    message = f"`{name}` of {item.type.name} is the same in every turn of loop `{around[-1].id}`"
                    help = "put ${index} or a loop variable into it"
                    yield Diagnostic("bad-value", message, arg.span, help=help)


def _bad(what: str, problem: str, arg: Arg, doc: str = "") -> Diagnostic:
    given = f" (from {arg.given})" if arg.given else ""
    written = isinstance(arg.source, Const) and arg.text.startswith("$")
    value = f" (`{arg.text}` is {show(_value(arg))})" if written and isinstance(arg.source, Const) else ""
    return Diagnostic("bad-value", f"{what}: {problem}{given}{value}", arg.span, help=doc or None)


def _changes(arg: Arg, around: tuple[Loop, ...]) -> bool:
    names = {loop.id for loop in around}
    if any(isinstance(leaf, Ref) and any(leaf.node.startswith(f"{n}.") for n in names) for leaf in leaves(arg.source)):
        return True
    # Every loop around must be told apart, or the outer one overwrites what the inner one wrote.
    varied = {leaf.loop for leaf in leaves(arg.source) if isinstance(leaf, Var | Index)}
    return names <= varied


_ADAPTERS: dict[int, TypeAdapter[Any]] = {}


def value_problem(parameter: Parameter, value: Any) -> str | None:
    """Why a literal cannot be this parameter's value, None if it can."""
    if value is None:
        return None if parameter.optional else "null is not allowed"
    problem = misfit(parameter.type, value)
    if problem is not None:
        return problem
    if any(isinstance(v, float) and v != v for v in (value if isinstance(value, list) else [value])):
        return "not a number (NaN) is no value"
    if id(parameter) not in _ADAPTERS:
        _ADAPTERS[id(parameter)] = TypeAdapter(parameter.annotation, config={"arbitrary_types_allowed": True})
    try:
        _ADAPTERS[id(parameter)].validate_python(value)
    except ValidationError as error:
        first = error.errors()[0]
        return f"{show(first.get('input', value))} is out of bounds: {_lower(first['msg'].removeprefix('Input '))}"
    return None


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]


def unused(graph: Graph) -> Iterator[Diagnostic]:
    """Nodes that nothing needs, as warnings."""
    needed = live(graph)
    for item, around in graph.walk():
        if item.id not in needed and not any(loop.id not in needed for loop in around):
            name = item.type.name if isinstance(item, Call) else "loop"
            message = f"`{item.id}` ({name}) does not run: no output and no effect needs it"
            help = "read it from a node that does, name it under `outputs`, or remove it"
            yield Diagnostic("unused-node", message, item.span, help=help, severity="warning")


def facts(graph: Graph) -> tuple[list[Diagnostic], Mapping[Ref, Any]]:
    """Run the node types' own `describe` and `check` on what is known; their problems, and the descriptions."""
    known: dict[Ref | Var, Any] = {}
    found: list[Diagnostic] = []
    needed = live(graph)

    def level(graph: Graph) -> None:
        for id in nx.topological_sort(dependencies(graph)):
            item = graph.items[id]
            if isinstance(item, Loop):
                for name, arg in item.carry.items():
                    description = _known(arg, known)
                    if description is not None:
                        known[Var(id, name)] = description
                level(item.body)
                for name, arg in item.body.outputs.items():
                    description = _known(arg, known)
                    if description is not None and item.carry:
                        known[Ref(id, name)] = description
            elif id in needed:
                call(item)

    def call(item: Call) -> None:
        arguments = known_arguments(item, known)
        if item.type.check is not None:
            for problem in item.type.check(**arguments):
                arg = item.args.get(problem.parameter)
                span = arg.span if arg is not None and arg.span is not None else item.span
                given = f" (from {arg.given})" if arg is not None and arg.given else ""
                found.append(
                    Diagnostic(
                        problem.code, problem.message + given, span, help=problem.help, severity=problem.severity
                    )
                )
        if item.type.describe is not None:
            described = item.type.describe(**arguments)
            if described is not None:
                several = len(item.type.outputs) > 1
                for output in item.type.outputs:
                    value = described.get(output.name) if several else described
                    if value is not None:
                        known[Ref(item.id, output.name)] = value

    level(graph)
    return found, {k: v for k, v in known.items() if isinstance(k, Ref)}


def known_arguments(call: Call, known: Mapping[Any, Any]) -> dict[str, Any]:
    """A call's arguments as far as they are known: literals, defaults and descriptions."""
    result: dict[str, Any] = {n: p.default for n, p in call.type.inputs.items() if not p.required}
    for name, arg in call.args.items():
        result.pop(name, None)
        value = _known(arg, known)
        if value is not None and arg.source is not BROKEN:
            result[name] = value
    return result


def _known(arg: Arg, known: Mapping[Any, Any]) -> Any:
    if isinstance(arg.source, Const):
        return None if arg.source is BROKEN else arg.source.value
    return known.get(arg.source) if isinstance(arg.source, Ref | Var) else None
