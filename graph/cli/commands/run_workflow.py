"""`sgd exec`."""

from __future__ import annotations

import json
import sys
from argparse import ArgumentParser, Namespace
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...compiler.compile import plan_of
from ...contract.constants import DOES_NOT_FIT, FAILED
from ...contract.errors import NodeError
from ...contract.interrupts import held, pending
from ...contract.node_library import NodeLibrary
from ...runtime.context import RECORD
from ...runtime.run import Result, does_not_fit, run
from ..command_line import checked, interrupted, options, say_failure, wrong
from ..common_arguments import device, result_as_json, workflow
from ..fitted_tables import wrapped
from ..preview_option import preview_files, preview_option
from ..profile_arguments import profile_options, profiling_of
from ..terminal import say, show, stdout_width
from ..told_expectations import tell_expectations

if TYPE_CHECKING:
    from ...compiler.plan import Plan
    from ...runtime.observers.progress import Progress

MOST_LISTED = 6
"""Files of one folder that a message lists."""

OUT_OF_MEMORY = "`sgd plan` says how much memory each node needs"


def add_arguments(to: ArgumentParser, _: Sequence[NodeLibrary]) -> None:
    """Add the arguments of `sgd exec`."""
    workflow(to)
    device(to)
    result_as_json(to)
    to.add_argument("--out", metavar="DIR", help="the output folder (default: outputs/<name>-<date>-<time>)")
    to.add_argument("--overwrite", action="store_true", help="replace files that exist")
    to.add_argument("--strict", action="store_true", help="fail if the run does not keep the file's `expect`")
    to.add_argument(
        "--no-metadata",
        action="store_true",
        help="write no recipe into pictures, clips and other outputs; run.json has it in any case",
    )
    to.add_argument("--quiet", action="store_true", help="no progress and no table")
    preview_option(to)
    profile_options(to)


def command(arguments: Namespace) -> int:
    """`sgd exec`."""
    from ...runtime.observers.progress import Progress

    if arguments.out == "":
        return wrong("--out is empty", "name a folder, or leave --out away")
    if arguments.quiet:
        return _run(arguments, None)
    with Progress(display=arguments.display) as progress:
        return _run(arguments, progress)


def _run(arguments: Namespace, progress: Progress | None) -> int:
    """Check, compile and run the workflow, and print the result."""
    phase = progress.phase if progress is not None else _nothing
    phase(f"checking {arguments.file}")
    from ...contract.device import choose
    from ...runtime.clock import COMPILE, IMPORT, Clock
    from ...runtime.import_times import watched
    from ...runtime.observers.preview_files import FOLDER
    from ..profile_table import kernel_table, table_of
    from ..tables import each

    try:
        profile = profiling_of(arguments)
    except NodeError as error:
        return wrong(str(error), error.help)
    clock = Clock.of_command()
    with watched(clock), clock.during(COMPILE):
        found = checked(arguments, complete=True, running=True)
        if isinstance(found, int):
            return found
        result, library = found
        if arguments.strict and result.expected is None:
            return wrong(f"--strict has nothing to check: {arguments.file} has no `expect`", "add `expect` to the file")
        plan = plan_of(result, library)
        pictures = preview_files(arguments.preview, plan, result, progress) if arguments.preview else None
        if isinstance(pictures, int):
            return pictures
    phase(importing(plan))
    try:
        with clock.during(IMPORT):  # torch is imported to look for a GPU
            device = choose(arguments.device, plan.libraries)
            given = options(arguments, library, device)
        with held():
            with redirect_stdout(sys.stderr):  # text that nodes print is not part of the result
                done = run(
                    plan,
                    out=arguments.out,
                    device=device,
                    options=given,
                    overwrite=arguments.overwrite,
                    observers=[observer for observer in (pictures, progress) if observer is not None],
                    clock=clock,
                    metadata=not arguments.no_metadata,
                    profile=profile,
                )
            if done.status == "interrupted" or pending():
                return _interrupted(done, arguments)
    except NodeError as error:
        return wrong(str(error), error.help)
    if arguments.json:
        print(json.dumps(done.record, indent=1))
    if done.status == "failed":
        return _failed(done, plan, given, device, arguments)
    if not arguments.json and not arguments.quiet:
        show(table_of(done.record, stdout_width()))
        kernels = kernel_table(done.record, stdout_width())
        if kernels:
            show(f"\n{kernels}")
        for text in [each.table_section(done.record) for each in plan.libraries]:
            if text:
                lines = [part for line in text.splitlines() for part in wrapped(line, stdout_width(), "    ")]
                show("\n".join(["", *lines, ""]))
        for name, value in done.record["outputs"].items():
            for path in each(value):
                show(f"{name}: {done.folder / path if isinstance(path, str) else path}")
        if pictures is not None and pictures.written:
            show(f"previews: {done.folder / FOLDER} ({len(pictures.written)} files)")
        show(f"record: {done.folder / RECORD}")
        for option, path in profile.files().items():
            show(f"{option}: {path}")
    return tell_expectations(done.record, arguments.strict, arguments.quiet or arguments.json)


def importing(plan: Plan) -> str:
    """The phase in which the packages of a plan's libraries are imported, for the display."""
    packages = dict.fromkeys(name for library in plan.libraries for name in library.packages)
    return f"importing {', '.join(packages) or 'packages'}"


def _nothing(_: str) -> None:
    """Show no phase: `--quiet`."""


def _interrupted(done: Result, arguments: Namespace) -> int:
    """Tell in one line how an interrupt left a run."""
    if arguments.json:
        print(json.dumps(done.record, indent=1))
    state = "interrupted" if done.status == "interrupted" else f"interrupted when the run had ended ({done.status})"
    replace = ", with --overwrite," if arguments.out is not None and not arguments.overwrite else ""
    say(f"{state}; {_kept(done)}; run the same command again{replace} to start over")
    return interrupted(done)


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
    if not does_not_fit(done.error, plan.loaded):
        return FAILED
    known = [each.out_of_memory_help for each in plan.libraries if each.out_of_memory_help]
    for line in [*(known or [OUT_OF_MEMORY]), *memory_advice(plan, options, device)]:
        say(f" = help: {line}")
    return DOES_NOT_FIT


def memory_advice(plan: Plan, options: Mapping[str, Any], device: str) -> list[str]:
    """Lines of advice for a run that did not fit the device, from a plan of it; empty if planning fails."""
    from ...contract.device import memory_bytes
    from ...runtime.estimate import estimate

    try:
        found = estimate(plan, options=options, device=device, memory_bytes=memory_bytes(device))
        return list(found["help"])
    except Exception:
        return []  # the failure itself was reported
