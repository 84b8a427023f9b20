"""Text about node types: the list of all node types, and the details of one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..contract.node import Input, NodeType
from ..contract.ports import plain, show
from ..language.registry import Library
from ..language.schema import bounds
from .fitted_tables import fitted, wrapped


def listing(library: Library, width: int | None = None) -> str:
    """All node types with their summaries, by group, for a terminal of this width."""
    rows = [[name, _signature(library.nodes[name]), library.nodes[name].summary] for name in sorted(library.nodes)]
    return "\n".join(fitted(rows, width, flexible=2, drop=[1], least=36, wrap=True))


def _signature(type: NodeType) -> str:
    return "-> " + (", ".join(str(o.type) for o in type.outputs) or "nothing")


def details(type: NodeType, width: int | None = None) -> str:
    """Describe a node type: ports, parameters, defaults, documentation, place in the code, notes about this machine.

    Args:
        type: The node type.
        width: Columns of the terminal; None does not break lines.
    """
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
        lines += [
            "",
            "On this machine:",
            *fitted([[f"  {name}", text] for name, text in type.notes().items()], width, flexible=1, wrap=True),
        ]
    body = _body(type.doc)
    if body:
        lines += ["", *(body.splitlines() if width is None else _reflowed(body))]
    return "\n".join(part for line in lines for part in _broken(line, width))


def _broken(line: str, width: int | None) -> list[str]:
    """A line of the description in lines of this width, with the same indentation."""
    space = len(line) - len(line.lstrip())
    return wrapped(line, width, " " * (space + 4 if space == 2 else space)) if line.strip() else [line]


def _reflowed(body: str) -> Iterator[str]:
    """The paragraphs of a docstring as one line each. Indented lines, such as those of lists and code, stay."""
    for number, paragraph in enumerate(body.split("\n\n")):
        if number:
            yield ""
        lines = paragraph.splitlines()
        is_text = not any(line.startswith((" ", "- ")) for line in lines)
        yield from [" ".join(lines)] if is_text else lines


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
