"""`sgd exec`."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING

from ...compiler.compile import plan_of
from ...contract.device import VISIBLE, card_number
from ...contract.errors import NodeError
from ...contract.interrupts import held, pending
from ...contract.node_library import NodeLibrary
from ...contract.rank_start import RankPlace
from ...runtime.context import RECORD
from ...runtime.run import run
from ...runtime.stored_steps import store_of
from ..cluster.cluster_options import cluster_options, require_possible
from ..command_line import checked, options, wrong
from ..common_arguments import device, output_folder, overlap_options, result_as_json, snapshot_option, workflow
from ..preview_option import preview_files, preview_option
from ..profile_arguments import profile_options, profiling_of
from ..ranks.other_rank import in_place, run_other_rank
from ..ranks.rank_options import rank_options, refused_option, require_all_cards
from ..ranks.started_run import run_in_ranks
from ..store_option import store_for_run, store_option
from ..terminal import show
from ..told_ends import tell_end, tell_interrupt
from ..told_expectations import tell_expectations

if TYPE_CHECKING:
    from ...compiler.plan import Plan
    from ...runtime.observers.progress import Progress
    from ..watch import Round


def add_arguments(to: ArgumentParser, _: Sequence[NodeLibrary]) -> None:
    """Add the arguments of `sgd exec`."""
    workflow(to)
    device(to)
    rank_options(to)
    cluster_options(to, "the turns of the mapping loops")
    result_as_json(to)
    output_folder(to)
    to.add_argument("--strict", action="store_true", help="fail if the run does not keep the file's `expect`")
    to.add_argument(
        "--no-metadata",
        action="store_true",
        help="write no recipe into pictures, clips and other outputs; run.json has it in any case",
    )
    to.add_argument("--quiet", action="store_true", help="no progress and no table")
    to.add_argument("--watch", action="store_true", help="check and run again whenever the workflow's files are saved")
    overlap_options(to)
    snapshot_option(to)
    store_option(to)
    preview_option(to)
    profile_options(to)


def command(arguments: Namespace) -> int:
    """`sgd exec`."""
    if arguments.out == "":
        return wrong("--out is empty", "name a folder, or leave out --out")
    try:
        on_cluster = require_possible(arguments)
    except NodeError as error:
        return wrong(str(error), error.help)
    if on_cluster:
        return _on_cluster(arguments)
    if arguments.overlap_device is not None and card_number(arguments.device) is not None:
        message = f"--overlap-device {arguments.overlap_device}: --device {arguments.device} leaves the run one GPU"
        return wrong(message, f"leave out --device: the run takes the first GPU of those that {VISIBLE} lets it see")
    if not arguments.watch:
        return _shown(arguments)
    if (arguments.processes or 1) > 1 or arguments.parallel is not None:
        return wrong("--watch runs in one process", "leave out --watch, or --processes and --parallel")
    from ..watch import watch

    return watch(arguments, lambda round: _shown(arguments, round))


def _on_cluster(arguments: Namespace) -> int:
    """Deal the workflow's jobs to the workers of a cluster."""
    from ...runtime.observers.progress import Progress
    from ..cluster.cluster_run import run_on_cluster

    if arguments.quiet:
        return run_on_cluster(arguments, None)
    with Progress(display=arguments.display) as progress:
        return run_on_cluster(arguments, progress)


def _shown(arguments: Namespace, round: Round | None = None) -> int:
    """Run the workflow once, with its progress. `round`: the round of `--watch`."""
    return in_place(lambda place: _in_place(arguments, place, round))


def _in_place(arguments: Namespace, place: RankPlace | None, round: Round | None) -> int:
    from ...runtime.observers.progress import Progress

    if arguments.quiet or (place is not None and place.rank):
        return _run(arguments, None, place, round)
    display, arguments.display = arguments.display, None  # the next round begins its own
    with Progress(display=display) as progress:
        return _run(arguments, progress, place, round)


def _run(arguments: Namespace, progress: Progress | None, place: RankPlace | None, round: Round | None) -> int:
    """Check, compile and run the workflow, and print the result."""
    phase = progress.phase if progress is not None else _nothing
    phase(f"checking {arguments.file}")
    from ...contract.device import choose
    from ...runtime.clock import COMPILE, IMPORT, Clock
    from ...runtime.import_times import watched
    from ...runtime.observers.preview_files import FOLDER
    from ...runtime.ranks.run_ranks import RunRanks
    from ...runtime.run_snapshots import Snapshots

    try:
        profile = profiling_of(arguments)
    except NodeError as error:
        return wrong(str(error), error.help)
    clock = Clock.of_command() if round is None or round.is_first else Clock()
    with watched(clock), clock.during(COMPILE):
        found = checked(arguments, complete=True, running=True, told=round.take if round is not None else None)
        if isinstance(found, int):
            return found
        result, library = found
        if arguments.strict and result.expected is None:
            return wrong(f"--strict has nothing to check: {arguments.file} has no `expect`", "add `expect` to the file")
        plan = plan_of(result, library)
        try:
            require_all_cards(arguments.device, result.mesh.size, place, plan.libraries)
            if result.mesh.size > 1 and place is None:
                profile.require_startable(plan, choose(arguments.device, plan.libraries), arguments.overwrite)
        except NodeError as error:
            return wrong(str(error), error.help)
        refused = refused_option(arguments) if result.mesh.size > 1 else None
        if refused is not None:
            return wrong(
                f"a run in several processes cannot have {refused}", f"leave out {refused}, or give `--processes 1`"
            )
        if result.mesh.size > 1 and place is None:
            if progress is not None:
                progress.stop()
            out = Path(arguments.out) if arguments.out is not None else None
            try:
                store_of(store_for_run(arguments, plan, profile))
            except NodeError as error:
                return wrong(str(error), error.help)
            return run_in_ranks(
                arguments,
                plan,
                result.mesh,
                device=arguments.device,
                out=out,
                overwrite=arguments.overwrite,
                named=False,
            )
        pictures = preview_files(arguments.preview, plan, result, progress) if arguments.preview else None
        if isinstance(pictures, int):
            return pictures
    phase(importing(plan))
    try:
        store = store_for_run(arguments, plan, profile)
        with clock.during(IMPORT):  # torch is imported to look for a GPU
            device = choose(arguments.device, plan.libraries)
            given = options(arguments, library, device)
        several = place is not None and place.size > 1
        ranks = RunRanks(plan, place, result.mesh, device, clock, profile) if place is not None and several else None
        if ranks is not None and ranks.place.rank:
            return run_other_rank(Path(arguments.out or "."), plan, ranks, given, clock)
        found_in = result.found.path if result.found is not None else None
        libraries = tuple(map(Path, arguments.library))
        overlap = arguments.overlap_device or arguments.overlap
        snapshots = Snapshots(arguments.snapshot_every, found_in, libraries, overlap=overlap)
        with held():
            with redirect_stdout(sys.stderr):  # text that nodes print is not part of the result
                done = run(
                    plan,
                    out=arguments.out,
                    device=device,
                    options=given,
                    overwrite=arguments.overwrite or (round is not None and round.has_run),
                    observers=[observer for observer in (pictures, progress) if observer is not None],
                    clock=clock,
                    metadata=not arguments.no_metadata,
                    profile=profile,
                    snapshots=snapshots,
                    store=store,
                    ranks=ranks,
                    overlap=overlap,
                )
            if round is not None:
                round.record = done.record
            if done.status == "interrupted" or pending():
                return tell_interrupt(done, plan, arguments)
    except NodeError as error:
        return wrong(str(error), error.help)
    code = tell_end(done, plan, given, device, arguments)
    if code is not None:
        return code
    if not arguments.json and not arguments.quiet:
        if pictures is not None and pictures.written:
            show(f"previews: {done.folder / FOLDER} ({len(pictures.written)} files)")
        if ranks is not None:
            show(f"processes: {ranks.mesh.size} ({ranks.mesh})")
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
