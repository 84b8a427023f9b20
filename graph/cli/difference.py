"""The difference between two workflow files: nodes, parameters and edges, and the nodes that would run again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ..compiler.ir import (
    Arg,
    Call,
    Const,
    Declared,
    Format,
    Graph,
    Index,
    Input,
    Item,
    Items,
    Loop,
    Ref,
    Source,
    Var,
    edges,
)
from ..compiler.passes.fold import locate
from ..contract.ports import show


def describe(source: Source) -> str:
    """Write a source as in a workflow file."""
    if isinstance(source, Const):
        return show(source.value)
    if isinstance(source, Ref):
        return f"${source.node}.{source.port}"
    if isinstance(source, Input):
        return f"${source.name}"
    if isinstance(source, Var):
        return f"${source.name} (of {source.loop})"
    if isinstance(source, Index):
        return "${index}"
    if isinstance(source, Items):
        return "[" + ", ".join(map(describe, source.items)) + "]"
    assert isinstance(source, Format)
    return '"' + "".join(p if isinstance(p, str) else f"${{{describe(p).lstrip('$')}}}" for p in source.parts) + '"'


def difference(before: Graph, after: Graph) -> dict[str, Any]:
    """Compare two resolved graphs.

    Returns:
        `added`, `removed`: paths with their type; `changed`: per path a list of (what, before, after); `inputs` and
        `outputs`: the same for the workflow's; `rerun`: paths of items whose results differ.
    """
    old = {item.id: item for item, _ in before.walk()}
    new = {item.id: item for item, _ in after.walk()}
    changed = {id: list(_changes(old[id], new[id])) for id in new if id in old}
    result = {
        "added": {id: _kind(item) for id, item in new.items() if id not in old},
        "removed": {id: _kind(item) for id, item in old.items() if id not in new},
        "changed": {id: changes for id, changes in changed.items() if changes},
        "inputs": list(_inputs(before.inputs, after.inputs)),
        "outputs": list(_args("", before.outputs, after.outputs)),
    }
    return {**result, "rerun": _rerun(after, new, result)}


def _kind(item: Item) -> str:
    return item.type.name if isinstance(item, Call) else "loop"


def _changes(old: Item, new: Item) -> Iterator[tuple[str, str, str]]:
    if _kind(old) != _kind(new):
        yield "uses", _kind(old), _kind(new)
        return
    if isinstance(old, Call) and isinstance(new, Call):
        yield from (change for change in _args("", old.args, new.args) if not _same_path(old, new, change[0]))
    elif isinstance(old, Loop) and isinstance(new, Loop):
        yield from _args("for ", old.over, new.over)
        yield from _args("carry ", old.carry, new.carry)
        yield from _args("yield ", old.body.outputs, new.body.outputs)


def _same_path(old: Call, new: Call, name: str) -> bool:
    """Whether a parameter names the same file in two calls, though it is written in two ways."""
    parameter = new.type.inputs.get(name)
    if parameter is None or parameter.path not in ("read", "source"):
        return False
    found = [call.args[name].source if name in call.args else None for call in (old, new)]
    paths = [
        str(locate(each.value, each.base, parameter.path == "source"))
        for each in found
        if isinstance(each, Const) and isinstance(each.value, str)
    ]
    return len(paths) == 2 and paths[0] == paths[1]


def _args(prefix: str, old: Mapping[str, Arg], new: Mapping[str, Arg]) -> Iterator[tuple[str, str, str]]:
    for name in dict.fromkeys([*old, *new]):
        texts = [describe(args[name].source) if name in args else "(default)" for args in (old, new)]
        if texts[0] != texts[1]:
            yield prefix + name, texts[0], texts[1]


def _inputs(old: Mapping[str, Declared], new: Mapping[str, Declared]) -> Iterator[tuple[str, str, str]]:
    for name in dict.fromkeys([*old, *new]):
        texts = [_declared(inputs.get(name)) for inputs in (old, new)]
        if texts[0] != texts[1]:
            yield name, texts[0], texts[1]


def _declared(declared: Declared | None) -> str:
    if declared is None:
        return "(none)"
    bounds = "".join(f", {k} {v:g}" for k, v in (("min", declared.min), ("max", declared.max)) if v is not None)
    default = f", default {show(declared.default.value)}" if declared.default is not None else ""
    return f"{declared.type}{default}{bounds}"


def _rerun(after: Graph, items: Mapping[str, Item], found: Mapping[str, Any]) -> list[str]:
    """Find the items of the new graph whose results differ: new and changed items, and items that depend on these."""
    inputs = {name for name, *_ in found["inputs"]}
    dirty = {*found["added"], *found["changed"]}
    for id, item in items.items():
        if any(isinstance(a.source, Input) and a.source.name in inputs for a in item.sources):
            dirty.add(id)
    grown = True
    while grown:
        before = len(dirty)
        for id, item in items.items():
            read = {e.node if isinstance(e, Ref) else e.loop for e in edges(item.sources)}
            inside = {other for other in dirty if other.startswith(f"{id}.")} if isinstance(item, Loop) else set()
            if read & dirty or inside:
                dirty.add(id)
        grown = len(dirty) > before
    return [id for id in items if id in dirty]


def text(found: Mapping[str, Any]) -> str:
    """Write a difference as text for the terminal; empty if the workflows are equal."""
    lines = [f"+ {id}: {kind}" for id, kind in found["added"].items()]
    lines += [f"- {id}: {kind}" for id, kind in found["removed"].items()]
    for title, entries in [*found["changed"].items(), ("inputs", found["inputs"]), ("outputs", found["outputs"])]:
        if entries:
            lines.append(f"~ {title}")
            lines += [f"    {what}: {before} -> {after}" for what, before, after in entries]
    if found["rerun"]:
        lines.append("would run again: " + ", ".join(found["rerun"]))
    return "\n".join(lines)
