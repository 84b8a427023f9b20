"""Check every combination of a sweep, and compile each to a plan, before anything is loaded."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...compiler.compile import Checked, check, plan_of
from ...compiler.frontend.workflow_path import find_workflow
from ...compiler.plan import Plan
from ...contract.diagnostics import Diagnostic, render
from ...contract.errors import NodeError, Problems
from ...contract.file_edits import ReplaceNode
from ...contract.source_spans import Source
from ...contract.suggestions import did_you_mean
from ...contract.text_tables import shortened
from ...contract.yaml_reader import Value, parse
from ...language.edit_file import edited
from ...language.literals import Given
from ...language.registry import Library
from .combinations import Combination
from .sweep_file import Sweep


@dataclass
class CheckedPlans:
    """Combinations with their plans, and the problems that were found, as text.

    Attributes:
        plans: The plan of each combination, by its number. Empty if there are errors.
        problems: Diagnostics as text, each once.
        failed: Whether one is an error.
        files: The files of the workflow, without those of `--library`.
    """

    plans: dict[int, Plan] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    failed: bool = False
    files: set[Path] = field(default_factory=set)


def checked_plans(sweep: Sweep, wanted: Sequence[Combination], library: Library) -> CheckedPlans:
    """Check combinations. A problem that many have in common is told once.

    Raises:
        NodeError: If a name is both varied and fixed, or a whole node cannot be written into the file.
    """
    for each in sweep.varied:
        if each.name in (sweep.settings if each.is_path else sweep.inputs):
            how = f"--set {each.name}=" if each.is_path else f"{each.name}="
            raise NodeError(f"`{each.name}` varies, and {how} fixes it", help="leave one of them out")
    found, seen = CheckedPlans(), set[tuple[str, str]]()
    for combination in wanted:
        result = _checked(sweep, combination, library)
        new = [each for each in result.diagnostics if _first(each, seen)]
        if new:
            found.problems.append(render(new, result.sources))
        found.files |= {Path(os.path.abspath(s.path)) for s in result.sources.values() if s.path is not None}
        if result.errors:
            found.failed = True
        else:
            found.plans[combination.number] = plan_of(result, library)
    if found.failed:
        found.plans.clear()
    return found


def _first(each: Diagnostic, seen: set[tuple[str, str]]) -> bool:
    key = (each.code, each.message)
    new = key not in seen
    seen.add(key)
    return new


def _checked(sweep: Sweep, combination: Combination, library: Library) -> Checked:
    base = Path(sweep.base)
    inputs = {name: Given(text, True, base) for name, text in sweep.inputs.items()}
    settings = {name: Given(text, True, base) for name, text in sweep.settings.items()}
    nodes: dict[str, str] = {}
    for each in sweep.varied:
        value = combination.values[each.name]
        if each.whole_nodes:
            nodes[each.name] = value
        else:
            (settings if each.is_path else inputs)[each.name] = Given(value, True, base)
    file, text = sweep.file, None
    if nodes:
        try:
            path, file = find_workflow(file)
            text = _with_nodes(path, nodes, library)
        except Problems as problems:
            return Checked(diagnostics=list(problems.diagnostics))
    return check(file, inputs, settings, library, complete=True, options=sweep.options, text=text)


def _with_nodes(path: Path, nodes: dict[str, str], library: Library) -> str:
    """The text of a workflow with other nodes in it."""
    if path.suffix.lower() not in (".yaml", ".yml"):
        raise NodeError(f"{path} is no workflow file, and a whole node varies", help="name the workflow file itself")
    try:
        text = path.read_bytes().decode("utf-8-sig")
        names = _node_names(text)
    except (OSError, UnicodeDecodeError, Problems):
        return path.read_bytes().decode("utf-8", "replace")  # its check says what is wrong
    for name, value in nodes.items():
        if name not in names:
            known = did_you_mean(name, names)
            raise NodeError(
                f"--vary {name}: the file has no node `{name}`",
                help=known or f"nodes: {', '.join(names)}; for one in a file that this one uses, edit a copy of that",
            )
        edit = _replaced(name, value, library)
        try:
            text = edited(text, [edit])
        except NodeError as error:
            raise NodeError(f"--vary {name}: {error}", help=error.help) from error
    return text


def _replaced(name: str, value: str, library: Library) -> ReplaceNode:
    plain: Any = _mapping(value).plain()
    uses = str(plain.pop("uses"))
    inner = plain.pop("with", None)
    values = {**(inner if isinstance(inner, dict) else {}), **plain}
    known = library.nodes.get(uses)
    ports = {key for key, each in known.inputs.items() if each.is_port} if known is not None else set()
    if wired := next((key for key in values if key in ports), None):
        raise NodeError(
            f"--vary {name}={shortened(value, 60)}: `{wired}` takes the output of a node",
            help="leave it out: it stays as the file wires it",
        )
    return ReplaceNode(name, uses, {key: _escaped(each) for key, each in values.items()}, frozenset(ports))


def _escaped(value: Any) -> Any:
    """A value whose texts are no references: values of the command line never are."""
    if isinstance(value, str):
        return value.replace("$", "$$")
    return [_escaped(each) for each in value] if isinstance(value, list) else value


def _mapping(text: str) -> Value:
    value, _ = parse(Source("--vary", None, text))
    assert value is not None  # `variations` read it before
    return value


def _node_names(text: str) -> list[str]:
    """The paths of all nodes in the text of a workflow, those in loops too."""
    root, _ = parse(Source("<file>", None, text))

    def below(level: Value | None, prefix: str) -> list[str]:
        found: list[str] = []
        for name, entry in level.data.items() if level is not None and level.is_map else ():
            found.append(prefix + name)
            if entry.is_map and "body" in entry.data:
                found += below(entry.data["body"], f"{prefix}{name}.")
        return found

    return below(root.data.get("nodes"), "") if root is not None and root.is_map else []
