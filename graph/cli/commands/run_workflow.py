"""`sgd exec`."""

from __future__ import annotations

import json
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from typing import TYPE_CHECKING, Any

from ...compiler.compile import plan_of
from ...contract.constants import DOES_NOT_FIT, DONE, FAILED
from ...contract.errors import NodeError
from ...contract.interrupts import held, pending
from ...contract.node_library import NodeLibrary
from ...runtime.context import RECORD
from ...runtime.run import Result, does_not_fit, run
from ..command_line import checked, interrupted, options, say_failure, wrong
from ..common_arguments import device, result_as_json, workflow
from ..terminal import say, show

if TYPE_CHECKING:
    from ...compiler.plan import Plan

OUT_OF_MEMORY = "`sgd plan` says how much memory each node needs"


def add_arguments(to: ArgumentParser, _: Sequence[NodeLibrary]) -> None:
    """Add the arguments of `sgd exec`."""
    workflow(to)
    device(to)
    result_as_json(to)
    to.add_argument("--out", metavar="DIR", help="the output folder (default: outputs/<name>-<date>-<time>)")
    to.add_argument("--overwrite", action="store_true", help="replace files that exist")
    to.add_argument("--quiet", action="store_true", help="no progress and no table")


def command(arguments: Namespace) -> int:
    """`sgd exec`."""
    from ...contract.device import choose
    from ...runtime.clock import COMPILE, IMPORT, Clock
    from ...runtime.import_times import watched
    from ...runtime.observers.progress import Progress
    from ..run_table import run_table
    from ..tables import each

    if arguments.out == "":
        return wrong("--out is empty", "name a folder, or leave --out away")
    clock = Clock.of_process()
    with watched(clock), clock.during(COMPILE):
        found = checked(arguments, complete=True, running=True)
        if isinstance(found, int):
            return found
        result, library = found
        plan = plan_of(result, library)
    try:
        with clock.during(IMPORT):  # torch is imported to look for a GPU
            device = choose(arguments.device, plan.libraries)
            given = options(arguments, library, device)
        progress = [] if arguments.quiet else [Progress()]
        with held():
            with redirect_stdout(sys.stderr):  # text that nodes print is not part of the result
                done = run(
                    plan,
                    out=arguments.out,
                    device=device,
                    options=given,
                    overwrite=arguments.overwrite,
                    observers=progress,
                    clock=clock,
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
        show(run_table(done.record))
        for text in [each.table_section(done.record) for each in plan.libraries]:
            if text:
                show(f"\n{text}\n")
        for name, value in done.record["outputs"].items():
            for path in each(value):
                show(f"{name}: {done.folder / path if isinstance(path, str) else path}")
        show(f"record: {done.folder / RECORD}")
    return DONE


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
    kept = ", ".join(str(path) for path in done.written) or "none"
    return f"files kept: {kept}; {done.record_problem or f'record: {done.folder / RECORD}'}"


def _failed(done: Result, plan: Plan, options: Mapping[str, Any], device: str, arguments: Namespace) -> int:
    """Tell why a run failed, and what there is of it."""
    say_failure(done.error, arguments)
    if done.record_problem and done.record_problem != str(done.error):
        say(f"error: {done.record_problem}")
    if done.written:
        say("files kept: " + ", ".join(str(path) for path in done.written))
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
