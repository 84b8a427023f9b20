"""Compile and run a part of a workflow for a command of a node library (`contract/library_command.py`)."""

from __future__ import annotations

import sys
import tempfile
from argparse import Namespace
from collections.abc import Collection, Iterable, Mapping
from contextlib import redirect_stdout, suppress
from dataclasses import replace
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any

from ..compiler.checks.input_values import inputs_of_one
from ..compiler.compile import check, plan_of
from ..compiler.ir import Ref
from ..compiler.passes.fold import safe_name
from ..compiler.passes.prune import live
from ..compiler.plan import Plan
from ..contract.constants import DOES_NOT_FIT, FAILED, WRONG
from ..contract.device import choose
from ..contract.diagnostics import render
from ..contract.errors import LibraryError, NodeError
from ..contract.events import Observer
from ..contract.file_edits import FileEdit
from ..contract.interrupts import held
from ..contract.library_command import CommandEnded, CommandModule, LibraryCommand
from ..contract.output_files import create, replace_text, temporary_path
from ..contract.ports import Type
from ..contract.text_tables import shortened
from ..language.edit_file import edited
from ..language.literals import Given
from ..runtime.failure import does_not_fit
from ..runtime.observers.progress import Progress
from ..runtime.record_file import RecordFile
from ..runtime.run import run
from ..runtime.session import session
from .command_line import given, interrupted, load_library, say_failure, wrong
from .shared_results import SharedResults, before_loops
from .terminal import say


def run_library_command(command: LibraryCommand, arguments: Namespace) -> int:
    """Run a command of a node library. Its runs are those of one session. Returns the exit code."""
    module: CommandModule = import_module(command.module)
    try:
        with session():
            return module.command(arguments, CommandWorkflow(arguments))
    except NodeError as error:
        return wrong(str(error), error.help)
    except LibraryError as error:
        return wrong(str(error))
    except CommandEnded as ended:
        return ended.code


class CommandWorkflow:
    """The workflow of a command line; a `WorkflowFile`.

    Raises:
        LibraryError: If a file of `--library` cannot be loaded.
        NodeError: If a value or a setting is malformed.
    """

    def __init__(self, arguments: Namespace) -> None:
        self.library = load_library(arguments)
        self.values = given(arguments.values, "name=value")
        self.settings = given(arguments.set, "--set path=value")
        self.file: str = arguments.file
        self.arguments, self.command, self.device_name = arguments, arguments.command, arguments.device
        self.warned = False
        self.shared = SharedResults()

    @property
    def given(self) -> Collection[str]:
        return self.values.keys()

    def input_types(self) -> Mapping[str, Type] | None:
        graph = check(self.file, library=self.library, fold_inputs=False).graph
        return None if graph is None else {name: declared.type for name, declared in graph.inputs.items()}

    def part(self, node_types: Collection[str], values: Mapping[str, Any]) -> PartialRun | None:
        own = {name: Given(value, False, Path.cwd()) for name, value in values.items()}
        checked = check(self.file, self.values | own, self.settings, self.library, complete=True, options={})
        if checked.errors or (checked.diagnostics and not self.warned):
            say(render(checked.diagnostics, checked.sources))
        if checked.errors:
            raise CommandEnded(WRONG)
        self.warned = True
        assert checked.graph is not None
        running = live(checked.graph)
        roots = {c.id for c in checked.graph.calls() if c.type.name in node_types and c.id in running}
        return PartialRun(plan_of(checked, self.library, roots), self, roots) if roots else None

    def node_of(self, node_type: str, parameter: str) -> str | None:
        checked = check(self.file, self.values, self.settings, self.library, options={})
        if checked.errors or checked.graph is None:
            say(render(checked.diagnostics, checked.sources))
            raise CommandEnded(WRONG)
        running = live(checked.graph)
        calls = {call.id: call for call in checked.graph.calls()}
        wired = [c.args.get(parameter) for c in calls.values() if c.type.name == node_type and c.id in running]
        found = {arg.source.node for arg in wired if arg is not None and isinstance(arg.source, Ref)}
        found &= calls.keys()
        if len(found) > 1:
            message = f"{self.file}: `{parameter}` of {node_type} comes from {', '.join(sorted(found))}"
            raise NodeError(message, help="this command works on a workflow with one of them")
        if not found:
            return None
        return found.pop()

    def inputs_of(self, node: str) -> Collection[str]:
        graph = check(self.file, self.values, self.settings, self.library, fold_inputs=False).graph
        return () if graph is None else inputs_of_one(graph, node)

    def edit(self, edits: Iterable[FileEdit], write: bool = True) -> Path:
        path = Path(self.file)
        if not path.is_file():
            help = f"make a copy of your own first: `sgd init {self.file}`"
            raise NodeError(f"{self.file} comes with sgd and cannot be changed", help=help)
        try:
            text = edited(path.read_bytes().decode(), edits)
            if write:
                with held():
                    target = path.resolve()
                    mode = target.stat().st_mode
                    replace_text(target, text)
                    target.chmod(mode)
        except (OSError, ValueError) as error:
            say(f"error: cannot change {path}: {getattr(error, 'strerror', None) or 'it is not UTF-8 text'}")
            raise CommandEnded(FAILED) from error
        return path

    def output_file(self, out: str | None, default: str, overwrite: bool) -> Path:
        if out == "":
            raise NodeError("--out is empty", help="name a file, or leave out --out")
        target = Path(out or default)
        try:
            if target.is_dir():
                raise NodeError(f"{target} is a folder", help="name a file with --out")
            with suppress(FileNotFoundError):
                target.lstat()  # raises for a name that no file can have
            if target.exists() and not overwrite:
                raise NodeError(f"{target} exists", help="pass --overwrite, or another --out")
            probe = temporary_path(target)
            with held():
                create(probe)
                probe.unlink()
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise NodeError(f"cannot write to {shortened(target)}: {reason}", help="choose another --out") from error
        return target

    def save(self, content: Mapping[str, Any], path: Path) -> None:
        try:
            with held():
                RecordFile(content, path).write({})
        except OSError as error:
            say(f"error: cannot write {path}: {error.strerror}")
            raise CommandEnded(FAILED) from error

    def say(self, text: str) -> None:
        say(text)


class PartialRun:
    """A part of a workflow; a `WorkflowPart`.

    Args:
        plan: Its plan.
        workflow: The workflow.
        roots: Paths of the calls that the command asked for. They are called in each run.
    """

    def __init__(self, plan: Plan, workflow: CommandWorkflow, roots: Collection[str]) -> None:
        self.plan, self.workflow, self.roots = plan, workflow, roots
        self.name, self.sha256, self.inputs = plan.name, plan.sha256, plan.inputs
        self.file_name = safe_name(plan.name)

    @cached_property
    def device(self) -> str:
        return choose(self.workflow.device_name, self.plan.libraries)

    def run(self, observer: Observer, options: Mapping[str, Any], unfinished: str) -> None:
        prefix = f"sgd-{self.workflow.command}-"
        with held():
            shown = Progress()  # it starts before packages are imported, which takes seconds
            with tempfile.TemporaryDirectory(prefix=prefix) as folder, shown, redirect_stdout(sys.stderr):
                shared = self.workflow.shared
                shared.calls = before_loops(self.plan) - set(self.roots)
                done = run(
                    replace(self.plan, recipe=None),  # nobody reads the record, so no file is hashed
                    out=folder,
                    device=self.device,
                    options={**options, "device": self.device},
                    overwrite=True,
                    observers=[observer, shown],
                    store=shared,
                )
            if done.status == "interrupted":
                say(f"interrupted; {unfinished}")
                raise CommandEnded(interrupted(done))
        if any(warning.startswith(f"{type(observer).__name__} failed") for warning in done.record["warnings"]):
            say(f"error: some measurements were lost, because the code that collects them failed; {unfinished}")
            raise CommandEnded(FAILED)
        if done.status == "failed":
            say_failure(done.error, self.workflow.arguments)
            raise CommandEnded(DOES_NOT_FIT if does_not_fit(done.error, self.plan.loaded) else FAILED)
