"""The graph of a workflow as text, Mermaid or Graphviz."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ..compiler.ir import Arg, Call, Graph, Item, Loop, Ref, Var, edges
from ..contract.text_tables import seconds


def inputs_of(item: Item) -> Iterator[tuple[str, Ref | Var]]:
    """Parameter and source of every edge into an item."""
    named = item.args if isinstance(item, Call) else {**item.over, **item.carry}
    for name, arg in named.items():
        for edge in edges([arg]):
            yield name, edge


def text(graph: Graph, times: Mapping[str, float] | None = None) -> str:
    """Draw the graph as text. A line shows a node's name, its type, and the nodes that it reads. Loops are indented."""
    lines: list[str] = []

    def level(graph: Graph, indent: str) -> None:
        for item in graph.items.values():
            read = [f"{name} <- {_name(edge)}" for name, edge in inputs_of(item)]
            kind = item.type.name if isinstance(item, Call) else "loop"
            took = f"  [{seconds(times[item.id])} s]" if times and item.id in times else ""
            lines.append(f"{indent}{item.id}: {kind}" + (f" ({', '.join(read)})" if read else "") + took)
            if isinstance(item, Loop):
                level(item.body, indent + "  ")
                for name, arg in item.body.outputs.items():
                    lines.extend(f"{indent}  yield {name} <- {_name(edge)}" for edge in edges([arg]))

    level(graph, "")
    for name, arg in graph.outputs.items():
        lines += [f"output {name} <- {_name(edge)}" for edge in edges([arg])]
    return "\n".join(lines)


def as_json(graph: Graph) -> dict[str, Any]:
    """Return the graph as plain data: its outputs, and its items in order, each with the items that it reads."""

    def read(args: Mapping[str, Arg]) -> dict[str, list[str]]:
        return {name: [_name(edge) for edge in edges([arg])] for name, arg in args.items()}

    def entry(item: Item) -> dict[str, Any]:
        if isinstance(item, Loop):
            return {"id": item.id, "type": "loop", "over": read(item.over), "carry": read(item.carry)} | as_json(
                item.body
            )
        wanted = None if item.wanted is None else {port: sorted(parts) for port, parts in item.wanted.items()}
        return {
            "id": item.id,
            "type": item.type.name,
            "names": list(item.names),
            "reads": read(item.args),
            "wanted": wanted,
        }

    return {"items": [entry(item) for item in graph.items.values()], "outputs": read(graph.outputs)}


def _name(edge: Ref | Var) -> str:
    if isinstance(edge, Var):
        return edge.name
    return f"{edge.node}.{edge.port}"


def mermaid(graph: Graph, times: Mapping[str, float] | None = None) -> str:
    """Draw a Mermaid flow chart. Loops are subgraphs. With `times`, nodes are shaded by their share of the time."""
    lines = ["flowchart TD"]
    links: list[str] = []
    shades: list[str] = []
    total = sum(t for n, t in (times or {}).items() if n in {c.id for c in graph.calls()}) or 1.0

    def level(graph: Graph, indent: str, loop: Loop | None) -> None:
        for item in graph.items.values():
            if isinstance(item, Loop):
                over = ", ".join(item.over)
                lines.append(f'{indent}subgraph {_id(item.id)}["{item.id}: for {over}"]')
                level(item.body, indent + "  ", item)
                lines.append(f"{indent}end")
            else:
                took = f"<br/>{seconds(times[item.id])} s" if times and item.id in times else ""
                lines.append(
                    f'{indent}{_id(item.id)}["{item.id.rsplit(".", 1)[-1]}<br/><i>{item.type.name}</i>{took}"]'
                )
                if times and item.id in times:
                    shades.append(f"  style {_id(item.id)} fill:{_shade(times[item.id] / total)}")
            for name, edge in inputs_of(item):
                if isinstance(edge, Ref):
                    links.append(f"  {_id(edge.node)} -- {name} --> {_id(item.id)}")
        if loop is not None:
            for name, arg in graph.outputs.items():
                links.extend(
                    f"  {_id(edge.node)} -. {name} .-> {_id(loop.id)}" for edge in edges([arg]) if isinstance(edge, Ref)
                )

    level(graph, "  ", None)
    for name, arg in graph.outputs.items():
        lines.append(f'  out_{name}(["{name}"])')
        links += [f"  {_id(e.node)} --> out_{name}" for e in edges([arg]) if isinstance(e, Ref)]
    return "\n".join([*lines, *links, *shades])


def dot(graph: Graph, times: Mapping[str, float] | None = None) -> str:
    """Draw a Graphviz digraph. Loops are clusters. With `times`, nodes are shaded by their share of the time."""
    lines = ["digraph {", '  rankdir=TB; node [shape=box, fontname="sans-serif"];']
    links: list[str] = []
    total = sum(t for n, t in (times or {}).items() if n in {c.id for c in graph.calls()}) or 1.0

    def anchor(id: str) -> str:
        item = items[id]
        while isinstance(item, Loop) and item.body.items:
            item = next(iter(item.body.items.values()))
        return item.id

    items: dict[str, Item] = {item.id: item for item, _ in graph.walk()}

    def level(graph: Graph, indent: str) -> None:
        for item in graph.items.values():
            if isinstance(item, Loop):
                lines.append(f'{indent}subgraph "cluster_{item.id}" {{ label="{item.id}";')
                if not item.body.items:
                    lines.append(f'{indent}  "{item.id}" [label="empty"];')
                level(item.body, indent + "  ")
                lines.append(f"{indent}}}")
            else:
                took = f"\\n{seconds(times[item.id])} s" if times and item.id in times else ""
                fill = (
                    f', style=filled, fillcolor="{_shade(times[item.id] / total)}"'
                    if times and item.id in times
                    else ""
                )
                lines.append(f'{indent}"{item.id}" [label="{item.id}\\n{item.type.name}{took}"{fill}];')
            for name, edge in inputs_of(item):
                if isinstance(edge, Ref):
                    links.append(f'  "{anchor(edge.node)}" -> "{anchor(item.id)}" [label="{name}"];')

    level(graph, "  ")
    for name, arg in graph.outputs.items():
        lines.append(f'  "output {name}" [shape=oval, label="{name}"];')
        links += [f'  "{anchor(e.node)}" -> "output {name}";' for e in edges([arg]) if isinstance(e, Ref)]
    return "\n".join([*lines, *links, "}"])


def _id(path: str) -> str:
    """A Mermaid id for a path. It is not a keyword such as `end`, and differs for `a.b` and `a__b`."""
    return "n_" + path.replace("__", "_u_u").replace(".", "__")


def _shade(share: float) -> str:
    """The colour for a node's share of the time: white for 0, red for 1."""
    rest = round(255 * (1 - min(max(share, 0.0), 1.0) * 0.7))
    return f"#ff{rest:02x}{rest:02x}"


def times_of(record: Mapping[str, Any]) -> dict[str, float]:
    """Seconds per node from a run's record."""
    return {row["name"]: float(row["seconds"]) for row in record["nodes"] if row["calls"] or row.get("interrupted")}


FORMATS = {"text": text, "mermaid": mermaid, "dot": dot}
