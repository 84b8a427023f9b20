"""Edit a workflow file until its plan fits a device. Node libraries propose the edits; each result is planned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..compiler.checks.process_mesh import Asked
from ..compiler.compile import Checked, check, plan_of
from ..compiler.ir import Graph, Ref
from ..compiler.plan import Plan
from ..contract.errors import NodeError
from ..contract.file_edits import FileEdit
from ..contract.node_library import NodeLibrary
from ..contract.processes import Mesh
from ..contract.workflow_folders import bundled_path
from ..language.edit_file import edited
from ..language.literals import Given
from ..language.registry import Library
from .estimate import ONE, estimate

MOST_ROUNDS = 8
"""Rounds of planning and editing. One round was enough for most workflows, and three for all that were tried."""


@dataclass(frozen=True)
class Fitting:
    """A workflow file, its values, and the device that its plan has to fit.

    Attributes:
        file: The path of the file. Paths in it are relative to its folder.
        library: Node types.
        device: `cpu` or `cuda`.
        memory_bytes: Memory of the device.
        inputs: Values of inputs.
        settings: Values of parameters by path.
        options: Options of the run.
        mesh: The processes of the run.
    """

    file: Path
    library: Library
    device: str
    memory_bytes: int
    inputs: Mapping[str, Given]
    settings: Mapping[str, Given]
    options: Mapping[str, Any]
    mesh: Mesh = ONE

    def fit(self, text: str, write_choices: bool) -> Fitted:
        """Edit a text until its plan fits, or no edit helps.

        Args:
            text: The text of the file, without errors.
            write_choices: Also write into the file what nodes chose because of the device's memory.

        Raises:
            NodeError: If the text has errors with the given values.
            NodeFailed: If a node cannot do its work in a plan.
        """
        refused: dict[str, None] = {}
        planned, plan, origins = self._planned(text)
        for _ in range(MOST_ROUNDS):
            changed = text
            for edit in _proposed(plan.libraries, planned, origins, write_choices):
                try:
                    changed = edited(changed, [edit])
                except NodeError as error:
                    refused[str(error)] = None
            if changed == text:
                break
            after, plan_after, origins_after = self._planned(changed)
            if not planned["fits"] and after["peak_bytes"] >= planned["peak_bytes"] and not write_choices:
                break  # the edits do not help
            text, planned, plan, origins = changed, after, plan_after, origins_after
        return Fitted(text, planned, tuple(refused))

    def least_memory(self, fitted: Fitted) -> int | None:
        """The least memory in bytes that is known to be enough for a text that does not fit; None if none was found."""
        memory, planned = self.memory_bytes, fitted.estimate
        for _ in range(MOST_ROUNDS):
            memory = max(planned["peak_bytes"], memory + 1)
            planned, *_ = replace(self, memory_bytes=memory)._planned(fitted.text)
            if planned["fits"]:
                return memory
        return None

    def _planned(self, text: str) -> tuple[dict[str, Any], Plan, dict[str, str]]:
        checked = self._checked(text)
        assert checked.graph is not None
        plan = plan_of(checked, self.library)
        options = {**self.options, "device": self.device}
        planned = estimate(plan, options=options, device=self.device, memory_bytes=self.memory_bytes, mesh=checked.mesh)
        return planned, plan, origins_of(checked.graph)

    def _checked(self, text: str) -> Checked:
        asked = Asked(mesh=self.mesh)
        checked = check(self.file, self.inputs, self.settings, self.library, complete=True, text=text, asked=asked)
        if checked.errors:
            raise NodeError(replace(checked.errors[0], place=None))
        return checked


@dataclass(frozen=True)
class Fitted:
    """The result of `Fitting.fit`.

    Attributes:
        text: The edited text.
        estimate: The estimate of its plan.
        refused: The reasons why proposed edits could not be written.
    """

    text: str
    estimate: dict[str, Any]
    refused: tuple[str, ...]


def origins_of(graph: Graph) -> dict[str, str]:
    """For each call, the call that its output's parts come from (`Shares`), or itself."""
    before: dict[str, str] = {}
    for call in graph.calls():
        shared = (call.args[name].source for name, p in call.type.inputs.items() if p.shares and name in call.args)
        source = next((source for source in shared if isinstance(source, Ref)), None)
        if source is not None:
            before[call.id] = source.node

    def origin(id: str) -> str:
        while id in before:
            id = before[id]
        return id

    return {call.id: origin(call.id) for call in graph.calls()}


def example_values(file: Path, text: str, library: Library) -> dict[str, Given]:
    """Values for inputs without a default, so that a file can be planned before its user has chosen them.

    Raises:
        NodeError: If an input needs a value of another type than text or a path.
    """
    graph = check(file, library=library, fold_inputs=False, text=text).graph
    found: dict[str, Given] = {}
    for name, declared in graph.inputs.items() if graph is not None else ():
        if not declared.required:
            continue
        example = next((each.example_file for each in library.libraries.values() if each.example_file), "")
        path = bundled_path(example) if declared.type.kind == "path" and example else None
        if path is None and declared.type.kind != "str":
            raise NodeError(f"input `{name}` ({declared.type}) has no default, and a plan needs a value")
        found[name] = Given(name if path is None else str(path), False, Path.cwd())
    return found


def _proposed(
    libraries: Sequence[NodeLibrary], planned: Mapping[str, Any], origins: Mapping[str, str], write_choices: bool
) -> list[FileEdit]:
    found: list[FileEdit] = []
    for library in libraries:
        if write_choices:
            found += library.chosen_edits(planned, origins)
        if not planned["fits"]:
            found += [edit for edit in library.memory_edits(planned, origins) if edit not in found]
    return found
