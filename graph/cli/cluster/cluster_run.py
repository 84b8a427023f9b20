"""`sgd exec --ray`: run the turns of a workflow's mapping loops as jobs on a Ray cluster, and print each end."""

from __future__ import annotations

import os
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from ...compiler.checks.separate_turns import SeparateTurns, separate_turns
from ...compiler.compile import Checked, plan_of
from ...contract.constants import DONE, WRONG
from ...contract.diagnostics import render
from ...contract.errors import NodeError
from ...contract.interrupts import held, pending
from ...contract.processes import Mesh
from ...contract.text_tables import seconds
from ...language.registry import Library
from ...runtime.clock import COMPILE, Clock
from ...runtime.cluster.job_result import JobResult
from ...runtime.cluster.ray_cluster import connected
from ...runtime.cluster.turn_run import run_turns
from ...runtime.cluster.turn_work import TurnWork, texts_of
from ...runtime.context import RECORD
from ...runtime.prepared_folder import check_outputs
from ...runtime.ranks.run_ranks import fingerprint
from ...store.fingerprints import packages_of
from ..command_line import added_options, checked, given, wrong
from ..terminal import say, show
from ..told_ends import tell_end, tell_interrupt

if TYPE_CHECKING:
    from ...compiler.plan import Plan
    from ...runtime.observers.progress import Progress


def run_on_cluster(arguments: Namespace, progress: Progress | None) -> int:
    """Check and compile the workflow, deal its jobs, and print the result. Returns the exit code."""
    from ...runtime.import_times import watched

    clock = Clock.of_command()
    arguments.library = [os.path.abspath(file) for file in arguments.library]  # as the workers name them
    if progress is not None:
        progress.phase(f"checking {arguments.file}")
    with watched(clock), clock.during(COMPILE):
        # The files that the workflow reads need not be here, only on the machines of the workers, which check that.
        found = checked(arguments, complete=True, running=arguments.ray_address is None)
        if isinstance(found, int):
            return found
        result, library = found
        assert result.graph is not None
        if result.mesh.size > 1:
            return wrong("--ray cannot be combined with `run: {parallel: …}` of the file", "remove it from the file")
        turns, problems = separate_turns(result.graph)
        if turns is None:
            say(render(problems, result.sources))
            return WRONG
        plan = plan_of(result, library)
    if plan.expected is not None:
        say("warning: the limits of `expect` are for a run on one machine; with --ray they are not compared")
    try:
        return _run(arguments, progress, result, library, plan, turns, clock)
    except NodeError as error:
        return wrong(str(error), error.help)


def _run(
    arguments: Namespace,
    progress: Progress | None,
    result: Checked,
    library: Library,
    plan: Plan,
    turns: SeparateTurns,
    clock: Clock,
) -> int:
    options, ended = added_options(arguments, library), 0

    def told(job: JobResult) -> None:
        nonlocal ended
        ended += 1
        if job.status == "failed":
            say(f"error: job {job.job} failed: {job.error}")
            if arguments.traceback and job.trace:
                say(f"\n{job.trace}\n")
        elif not arguments.quiet:
            say(f"{ended} of {turns.count}: job {job.job}: {seconds(job.seconds)} s on worker {job.worker}")

    out = Path(arguments.out) if arguments.out is not None else None
    if out is not None:
        check_outputs(plan, out, arguments.overwrite)  # before a cluster is started
    if progress is not None:
        progress.phase("starting Ray" if arguments.ray_address is None else "connecting to Ray")
    with connected(arguments.ray_address) as cluster, held():
        device = cluster.device(arguments.device, plan.libraries)
        if progress is not None:
            progress.stop()
            say(f"{turns.count} jobs; the cluster has {cluster.said(device == 'cuda')}")
        done = run_turns(
            plan,
            cluster,
            _work(arguments, result, library, plan, turns, device),
            out=out,
            overwrite=arguments.overwrite,
            clock=clock,
            told=told,
            say=say,
        )
        if done.status == "interrupted" or pending():
            return tell_interrupt(done, plan, arguments)
    code = tell_end(done, plan, options, device, arguments)
    if code is None and not arguments.json and not arguments.quiet:
        workers = done.record["workers"]
        hosts = len({each["host"] for each in workers})
        show(f"workers: {len(workers)} on {hosts} machine{'s' * (hosts != 1)}")
        show(f"record: {done.folder / RECORD}")
    return DONE if code is None else code


def _work(
    arguments: Namespace, result: Checked, library: Library, plan: Plan, turns: SeparateTurns, device: str
) -> TurnWork:
    texts, options = texts_of(result), added_options(arguments, library)
    inputs, settings = given(arguments.values, "name=value"), given(arguments.set, "--set path=value")
    return TurnWork(
        os.path.abspath(arguments.file) if texts is not None else arguments.file,
        str(Path.cwd()),
        {name: str(each.value) for name, each in inputs.items()},
        {name: str(each.value) for name, each in settings.items()},
        tuple(arguments.library),
        options,
        device,
        not arguments.no_metadata,
        turns,
        fingerprint(plan, Mesh()),
        packages_of(library.libraries.values()),
        texts,
    )
