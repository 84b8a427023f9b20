"""Writes docs/nodes.md from the installed node types: `python docs/generate.py` (with --check, only compares)."""

from __future__ import annotations

import sys
from pathlib import Path

from sgd.graph.contract.node import Input, NodeType
from sgd.graph.contract.ports import show
from sgd.graph.language.registry import standard

TARGET = Path(__file__).parent / "nodes.md"


def text() -> str:
    """The reference of the standard node library."""
    library = standard()
    made = "Made by `python docs/generate.py`; `sgd nodes NAME` prints the same for what is installed."
    lines = ["# Node types", "", made, ""]
    for name in sorted(library.nodes):
        lines += entry(library.nodes[name])
    return "\n".join(lines)


def entry(type: NodeType) -> list[str]:
    """One node type: summary, table of parameters, outputs."""
    lines = [f"## {type.name}", "", type.summary, ""]
    lines += ["| parameter | type | default | about |", "| --- | --- | --- | --- |"]
    lines += [row(parameter) for parameter in type.inputs.values()]
    if not type.inputs:
        lines = lines[:-2]
    outputs = ", ".join(f"`{o.name}` ({o.type})" for o in type.outputs) or "none"
    about = type.outputs[0].doc if len(type.outputs) == 1 and type.outputs[0].doc else ""
    return [*lines, "", f"Outputs: {outputs}. {about}".rstrip(), ""]


def row(parameter: Input) -> str:
    default = "required" if parameter.required else show(getattr(parameter.default, "value", parameter.default))
    kind = str(parameter.type).replace("|", "\\|")
    return f"| `{parameter.name}` | {kind} | {default} | {parameter.doc.replace('|', chr(92) + '|')} |"


if __name__ == "__main__":
    if "--check" in sys.argv:
        sys.exit(0 if TARGET.read_text() == text() else f"{TARGET} is out of date: run python docs/generate.py")
    TARGET.write_text(text())
