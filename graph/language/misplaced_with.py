"""A block `with` that is indented too little: it is one problem, and it counts as a part of the node before it."""

from __future__ import annotations

from dataclasses import replace

from ..contract.diagnostics import Diagnostic, Related
from ..contract.source_spans import Span
from ..contract.yaml_reader import Value

WITH, USES = "with", "uses"


def gathered_nodes(nodes: Value, problems: list[Diagnostic]) -> Value:
    """The nodes of a level, with a `with` among them put into the node before it.

    Args:
        nodes: The mapping of names to nodes.
        problems: Receives the problem.
    """
    stray = nodes.data.get(WITH)
    if stray is None or not stray.is_map or USES in stray.data:
        return nodes
    names = list(nodes.data)
    before = names[names.index(WITH) - 1] if names[0] != WITH else None
    if before is None or not _takes_with(nodes.data[before]):
        return nodes
    problems.append(_problem(nodes, before, nodes.keys[WITH]))
    data = {name: value for name, value in nodes.data.items() if name != WITH}
    data[before] = _with_block(data[before], stray, nodes.keys[WITH])
    return replace(nodes, data=data)


def gathered_file(root: Value, problems: list[Diagnostic]) -> Value:
    """A file, with a `with` at the left margin after `nodes` put into the last node.

    The nodes below the `with`, which the file goes on with, are put after that node. See `gathered_nodes`.
    """
    keys = list(root.data)
    nodes, stray = root.data.get("nodes"), root.data.get(WITH)
    if stray is None or not stray.is_map or keys[keys.index(WITH) - 1] != "nodes":
        return root
    if nodes is None or not nodes.is_map or not nodes.data or not _takes_with(nodes.data[list(nodes.data)[-1]]):
        return root
    before = list(nodes.data)[-1]
    problems.append(_problem(nodes, before, root.keys[WITH]))
    rest = {name: value for name, value in stray.data.items() if value.is_map}
    block = replace(stray, data={name: value for name, value in stray.data.items() if name not in rest})
    data = {**nodes.data, before: _with_block(nodes.data[before], block, root.keys[WITH])}
    data |= {name: value for name, value in rest.items() if name not in data}
    nodes = replace(nodes, data=data, keys={**stray.keys, **nodes.keys})
    return replace(root, data={name: value for name, value in (root.data | {"nodes": nodes}).items() if name != WITH})


def _takes_with(node: Value) -> bool:
    return node.is_map and USES in node.data and WITH not in node.data


def _with_block(node: Value, block: Value, key: Span) -> Value:
    return replace(node, data={**node.data, WITH: block}, keys={**node.keys, WITH: key})


def _problem(nodes: Value, before: str, place: Span) -> Diagnostic:
    name, uses = nodes.keys[before], nodes.data[before].keys[USES]
    spaces = uses.column - 1
    if name.line == uses.line:
        help = f"write `with: {{…}}` inside the braces of `{before}`, after `uses`"
    else:
        help = f"begin its line with {spaces} spaces, as that of `uses`, and indent the lines below it further"
    related = (Related("the node", name),)
    message = f"the block `with` belongs under node `{before}`"
    return Diagnostic("unknown-key", message, place, related=related, help=help)
