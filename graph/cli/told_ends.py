"""The end of a run for people: its table and outputs, or why and how it ended early."""

from __future__ import annotations

import json
import shlex
from argparse import Namespace
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..contract.constants import DOES_NOT_FIT, FAILED
from ..contract.processes import Mesh
from ..runtime.context import RECORD
from ..runtime.failure import does_not_fit
from ..runtime.run_result import Result
from .command_line import interrupted, say_failure
from .fitted_tables import wrapped
from .terminal import say, show, stdout_width

if TYPE_CHECKING:
    from ..compiler.plan import Plan

MOST_LISTED = 6
"""Files of one folder that a message lists."""

OUT_OF_MEMORY = "`sgd plan` says how much memory each node needs"


def tell_end(done: Result, plan: Plan, options: Mapping[str, Any], device: str, arguments: Namespace) -> int | None:
    """Tell how a run ended that was not interrupted: its table and its outputs, or why it failed.

    Returns:
        The exit code of a run that failed; None for one that is done.
    """
    from .profile_table import kernel_table, table_of
    from .tables import each

    _tell_warnings(done, arguments)
    if arguments.json:
        print(json.dumps(done.record, indent=1))
    if done.status == "failed":
        return _failed(done, plan, options, device, arguments)
    if arguments.json or arguments.quiet:
        return None
    show(table_of(done.record, stdout_width()))
    kernels = kernel_table(done.record, stdout_width())
    if kernels:
        show(f"\n{kernels}")
    for text in [library.table_section(done.record) for library in plan.libraries]:
        if text:
            lines = [part for line in text.splitlines() for part in wrapped(line, stdout_width(), "    ")]
            show("\n".join(["", *lines, ""]))
    for name, value in done.record["outputs"].items():
        for path in each(value):
            show(f"{name}: {done.folder / path if isinstance(path, str) else path}")
    return None


def resume_command(folder: Path, plan: Plan, arguments: Namespace) -> str:
    """The command that goes on with a run, with the libraries and permissions that it needs again."""
    words = ["sgd", "resume", str(folder)]
    words += [word for path in arguments.library for word in ("--library", path)]
    known = [option for library in plan.loaded for option in library.options if option.permission]
    words += [f"--{option.name}" for option in known if option.value_in(arguments)]
    return shlex.join(words)


def tell_interrupt(done: Result, plan: Plan, arguments: Namespace) -> int:
    """Tell in one line how an interrupt left a run."""
    _tell_warnings(done, arguments)
    if arguments.json:
        print(json.dumps(done.record, indent=1))
    state = "interrupted" if done.status == "interrupted" else f"interrupted when the run had ended ({done.status})"
    if done.resumable:
        after = f"go on with: {resume_command(done.folder, plan, arguments)}"
    else:
        replace = ", with --overwrite," if getattr(arguments, "out", None) and not arguments.overwrite else ""
        after = f"run the same command again{replace} to start over"
    say(f"{state}; {_kept(done)}; {after}")
    return interrupted(done)


def _tell_warnings(done: Result, arguments: Namespace) -> None:
    """Tell the warnings that the display of the run did not show."""
    for warning in done.late_warnings if not arguments.quiet else ():
        say(f"warning: {warning}")


def _kept(done: Result) -> str:
    """The files of a run that did not come to its end."""
    kept = ", ".join(listed(done.written)) or "none"
    return f"files kept: {kept}; {done.record_problem or f'record: {done.folder / RECORD}'}"


def listed(files: Sequence[Path]) -> list[str]:
    """Files for a message. A folder with many of them is named once, with their number."""
    folders = Counter(file.parent for file in files)
    few = [str(file) for file in files if folders[file.parent] <= MOST_LISTED]
    return few + [f"{folder} ({number} files)" for folder, number in folders.items() if number > MOST_LISTED]


def _failed(done: Result, plan: Plan, options: Mapping[str, Any], device: str, arguments: Namespace) -> int:
    """Tell why a run failed, and what there is of it."""
    say_failure(done.error, arguments)
    if done.record_problem and done.record_problem != str(done.error):
        say(f"error: {done.record_problem}")
    if done.written:
        say("files kept: " + ", ".join(listed(done.written)))
    if done.resumable:
        say(f" = help: when the reason is gone, go on with: {resume_command(done.folder, plan, arguments)}")
    if not does_not_fit(done.error, plan.loaded):
        return FAILED
    known = [each.out_of_memory_help for each in plan.libraries if each.out_of_memory_help]
    mesh = Mesh(**done.record.get("parallel", {}))
    for line in [*(known or [OUT_OF_MEMORY]), *memory_advice(plan, options, device, mesh)]:
        say(f" = help: {line}")
    return DOES_NOT_FIT


def memory_advice(plan: Plan, options: Mapping[str, Any], device: str, mesh: Mesh) -> list[str]:
    """Lines of advice for a run that did not fit the device, from a plan of it; empty if planning fails."""
    from ..contract.device import memory_bytes
    from ..runtime.estimate import estimate

    try:
        found = estimate(plan, options=options, device=device, memory_bytes=memory_bytes(device), mesh=mesh)
        return list(found["help"])
    except Exception:
        return []  # the failure itself was reported
