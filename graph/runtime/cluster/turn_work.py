"""One turn of a workflow's mapping loops as a job: the worker compiles the plan of that turn, and runs it."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import chdir, contextmanager, nullcontext, redirect_stdout
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ...compiler.checks.separate_turns import SeparateTurns
from ...compiler.compile import Checked, check, plan_of
from ...compiler.passes.one_turn import one_turn
from ...contract.device import choose
from ...contract.diagnostics import render
from ...contract.errors import NodeError
from ...contract.processes import Mesh
from ...contract.workflow_folders import bundled_name
from ...language.literals import Given
from ...language.registry import Library, installed
from ..author_frames import traceback_text
from ..context import RECORD
from ..ranks.run_ranks import fingerprint
from ..run import run
from ..session import session
from .job_result import JobResult, OpenWork
from .version_differences import version_differences
from .worker_process import files_below


@dataclass(frozen=True)
class Texts:
    """The text of a workflow and those of the files that it uses, so that a worker needs none of these files."""

    first: str
    used: Mapping[Path, str] = field(default_factory=dict)


def texts_of(checked: Checked) -> Texts | None:
    """The texts of a checked workflow; None if each worker has it: a bundled one, or one in a file of a run."""
    document, files = checked.document, checked.files
    if document is None or document.path is None or checked.found is not None or bundled_name(document.path):
        return None
    used = {route: files.documents[found].source.text for route, found in files.routes.items()
            if found in files.documents and bundled_name(found) is None}  # fmt: skip
    return Texts(document.source.text, used)


@dataclass(frozen=True)
class TurnWork:
    """The jobs of a workflow, as they travel to the workers.

    Attributes:
        file: The workflow, as the user named it, or its whole path if `texts` has its text.
        base: The folder that paths of the command line are relative to.
        inputs: Values of inputs, as text.
        settings: Values of `--set`, as text.
        libraries: Python files with node types, as whole paths.
        options: Values of the options that libraries add.
        device: `cpu` or `cuda`.
        metadata: Whether outputs carry their recipe.
        turns: The jobs.
        plan: The fingerprint of the plan of the whole run.
        versions: The versions of the packages that compute.
        texts: The texts of the workflow; None if each worker reads it from its own disk.
    """

    file: str
    base: str
    inputs: Mapping[str, str]
    settings: Mapping[str, str]
    libraries: tuple[str, ...]
    options: Mapping[str, Any]
    device: str
    metadata: bool
    turns: SeparateTurns
    plan: str
    versions: Mapping[str, str | None]
    texts: Texts | None = None

    @contextmanager
    def opened(self, kept: Path) -> Iterator[OpenWork]:
        """Check the workflow in a worker; see `Work`."""
        here = Path(self.base)
        with chdir(here) if here.is_dir() else nullcontext():
            for file in self.libraries:
                if not Path(file).is_file():
                    raise NodeError(f"--library {file} is not on this machine", help="put it there, at the same path")
            library = installed(tuple(map(Path, self.libraries)))
            checked = self._checked(library)
            if checked.errors:
                raise NodeError(render(checked.errors, checked.sources).strip())
            plan = plan_of(checked, library)
            choose(self.device, plan.libraries)  # it prepares the import of torch
            if fingerprint(plan, Mesh()) != self.plan:
                raise NodeError("it makes another plan of the workflow: install the same version of sgd there")
            with session():
                yield OpenTurns(self, checked, library, tuple(version_differences(self.versions, library)))

    def _checked(self, library: Library) -> Checked:
        base = Path(self.base)
        inputs = {name: Given(text, True, base) for name, text in self.inputs.items()}
        settings = {name: Given(text, True, base) for name, text in self.settings.items()}
        text, held = (self.texts.first, self.texts.used) if self.texts is not None else (None, None)
        return check(self.file, inputs, settings, library, complete=True, options=self.options, text=text, held=held)


@dataclass
class OpenTurns:
    """The jobs of a workflow in a worker."""

    work: TurnWork
    checked: Checked
    library: Library
    warnings: tuple[str, ...] = ()

    def run(self, job: int, scratch: Path) -> JobResult:
        """Run a job; see `OpenWork`."""
        assert self.checked.graph is not None
        graph = one_turn(self.checked.graph, self.work.turns.loops, job)
        # The limits of the file are those of the whole run.
        plan = plan_of(replace(self.checked, graph=graph, expected=None), self.library)
        out, options = scratch / "out", {**self.work.options, "device": self.work.device}
        try:
            with redirect_stdout(sys.stderr):
                done = run(plan, out=out, device=self.work.device, options=options, metadata=self.work.metadata)
        except NodeError as error:
            return JobResult(job, "failed", error=str(error))
        record = done.record
        if done.status != "done":
            reason = done.error or NodeError("it was interrupted on its machine")
            text, trace = str(reason) or type(reason).__name__, traceback_text(reason)
            return JobResult(job, "failed", record["seconds"], text, trace, record)
        return JobResult(job, "done", record["seconds"], record=record, files=files_below(out, (RECORD,)))
