"""Text about node types: the list of all node types, and the details of one."""

from __future__ import annotations

from typing import Any

from ..contract.node import Input, NodeType
from ..contract.ports import plain, show
from ..contract.text_tables import columns
from ..language.registry import Library
from ..language.schema import bounds


def listing(library: Library) -> str:
    """All node types with their summaries, by group."""
    rows = [[name, _signature(library.nodes[name]), library.nodes[name].summary] for name in sorted(library.nodes)]
    return "\n".join(columns([[name, outputs, summary] for name, outputs, summary in rows]))


def _signature(type: NodeType) -> str:
    return "-> " + (", ".join(str(o.type) for o in type.outputs) or "nothing")


def details(type: NodeType) -> str:
    """Describe a node type: ports, parameters, defaults, documentation, place in the code, notes about this machine."""
    lines = [f"{type.name}  (version {type.version}, {type.library}, {type.location})", "", type.summary]
    ports = [i for i in type.inputs.values() if i.is_port]
    parameters = [i for i in type.inputs.values() if not i.is_port]
    for title, inputs in (("Ports", ports), ("Parameters", parameters)):
        if inputs:
            lines += ["", f"{title}:"]
            for entry in inputs:
                lines += _input(entry)
    if type.outputs:
        lines += ["", "Outputs:"]
        for output in type.outputs:
            lines.append(f"  {output.name}: {output.type}" + (f"  {output.doc}" if output.doc else ""))
    if type.notes is not None:
        lines += ["", "On this machine:", *columns([[f"  {name}", text] for name, text in type.notes().items()])]
    body = _body(type.doc)
    return "\n".join(lines + (["", body] if body else []))


def _input(entry: Input) -> list[str]:
    default = "required" if entry.required else f"default {show(plain(entry.default))}"
    head = f"  {entry.name}: {entry.type}, {default}{_bounds(entry)}"
    return [head, *([f"      {entry.doc}"] if entry.doc else [])]


def _bounds(entry: Input) -> str:
    words = {"minimum": "at least", "maximum": "at most", "exclusiveMinimum": "above", "exclusiveMaximum": "below"}
    if entry.type.kind not in ("int", "float"):
        return ""
    found = {**bounds(entry.annotation)}
    return "".join(f", {words[name]} {value:g}" for name, value in found.items() if name in words)


def _body(doc: str) -> str:
    """The paragraphs of a docstring between its summary and its sections."""
    rest = doc.split("\n\n", 1)[1] if "\n\n" in doc else ""
    kept = []
    for paragraph in rest.split("\n\n"):
        if paragraph.lstrip().startswith(("Args:", "Returns:", "Raises:")):
            break
        kept.append(paragraph)
    return "\n\n".join(kept)


def as_json(type: NodeType) -> dict[str, Any]:
    """Return a node type as plain data for JSON."""
    return {
        "name": type.name,
        "version": type.version,
        "library": type.library,
        "location": type.location,
        "summary": type.summary,
        "effect": type.effect,
        "inputs": [
            {
                "name": i.name,
                "type": str(i.type),
                "required": i.required,
                "default": None if i.required else plain(i.default),
                "port": i.is_port,
                "about": i.doc,
            }
            for i in type.inputs.values()
        ],
        "outputs": [{"name": o.name, "type": str(o.type)} for o in type.outputs],
    }
