"""The page of `sgd graph --format html`: the drawing of a workflow file, with each node's parameters and place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ...compiler.compile import Checked
from ...compiler.edge_list import edge_list
from ...compiler.ir import Arg, Call, Const, Item, leaves
from ...contract.errors import NodeError
from ...contract.node import NodeType
from ...contract.ports import plain, show
from ...contract.source_spans import Span
from ...contract.text_tables import shortened
from .graph_drawing import NodeFacts, drawing
from .page import Panel, Section, page, piece


def graph_page(checked: Checked, times: Mapping[str, float] | None) -> str:
    """The HTML of a page with the drawing of a checked workflow.

    Args:
        checked: A workflow without errors.
        times: Seconds of nodes in a run; None to draw it without times.

    Raises:
        NodeError: If no name of `times` is one of the workflow.
    """
    graph = checked.graph
    assert graph is not None
    names = {item.id: item.type.name if isinstance(item, Call) else "loop" for item, _ in graph.walk()}
    names |= {path: file for path, file, _ in graph.composites}
    if times and not names.keys() & times.keys():
        raise NodeError("the run has none of the nodes of this file", help="give the run.json of a run of this file")
    facts = {item.id: _facts(item, times) for item, _ in graph.walk()}
    for path, _, span in graph.composites:
        facts[path] = NodeFacts(rows=_place(span), seconds=_seconds(path, times))
    body = piece("alone", body=drawing(names, edge_list(graph), facts, "graph"))
    about = f"{len(names)} nodes, loops and composites" + (" with the times of a run" if times else "")
    title = graph.name or (checked.document.path.stem if checked.document and checked.document.path else "workflow")
    return page(f"{shortened(title, 80)} · sgd graph", [Panel(title, [Section("graph", "Graph", body, about)])])


def _seconds(path: str, times: Mapping[str, float] | None) -> float | None:
    """The seconds of a node, or of the nodes in a group that has no time of its own."""
    if times is None:
        return None
    return times.get(path, sum(seconds for name, seconds in times.items() if name.startswith(f"{path}.")))


def _facts(item: Item, times: Mapping[str, float] | None) -> NodeFacts:
    seconds = _seconds(item.id, times)
    if not isinstance(item, Call):
        rows = [*_arguments({**item.over, **item.carry}, None), *_place(item.span)]
        kind = "Maps: a turn for each entry." if item.mapping else "Carries state from turn to turn."
        return NodeFacts(kind, rows, seconds)
    ran = None if times is None else int(item.id in times)
    rows = [*_arguments(item.args, item.type), *_place(item.span), ("made by", item.type.location)]
    return NodeFacts(item.type.summary, rows, seconds, ran)


def _arguments(args: Mapping[str, Arg], type: NodeType | None) -> Iterator[tuple[str, str]]:
    """Parameters and their values, those of the file first, then defaults."""
    for name, arg in args.items():
        given = f" ({arg.given})" if arg.given else ""
        yield name, shortened(_value(arg), 600) + given
    for name, parameter in type.inputs.items() if type is not None else ():
        if name not in args and not parameter.required:
            yield name, f"{show(plain(parameter.default))} (default)"


def _value(arg: Arg) -> str:
    """The text of a value in the file; the value itself if it comes from elsewhere."""
    source = arg.source
    if isinstance(source, Const):
        return str(source.value) if isinstance(source.value, str) else show(plain(source.value))
    return arg.text or ", ".join(str(leaf) for leaf in leaves(source))


def _place(span: Span | None) -> list[tuple[str, str]]:
    return [("place", f"{span.file}:{span.line}:{span.column}")] if span is not None else []
