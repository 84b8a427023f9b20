"""`sgd resume`."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from contextlib import chdir, redirect_stdout, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...compiler.checks.process_mesh import Asked
from ...compiler.compile import check, plan_of
from ...contract.constants import WRONG
from ...contract.diagnostics import render
from ...contract.errors import LibraryError, NodeError, UnreadableFile
from ...contract.interrupts import held, pending
from ...contract.json_reader import read_json
from ...contract.node_library import NodeLibrary
from ...contract.processes import Mesh, mesh_of
from ...contract.rank_start import RankPlace
from ...language.literals import Given
from ...resume.snapshot_folder import BEGUN, FOLDER, LARGEST, SnapshotFolder
from ..command_line import added_options, load_library, told_elsewhere, wrong
from ..common_arguments import library_files, result_as_json, snapshot_option
from ..profile_arguments import profile_options, profiling_of
from ..ranks.other_rank import in_place, refused, run_other_rank
from ..ranks.rank_options import asked_of, rank_options, require_all_cards
from ..ranks.started_run import run_in_ranks
from ..resumed_place import OVER, resumed_from
from ..store_option import store_again
from ..terminal import say, show
from ..told_ends import tell_end, tell_interrupt
from ..told_expectations import tell_expectations

if TYPE_CHECKING:
    from ...runtime.observers.progress import Progress


def add_arguments(to: ArgumentParser, libraries: Sequence[NodeLibrary]) -> None:
    """Add the arguments of `sgd resume`. Everything else is as when the run was started."""
    to.add_argument(
        "run", metavar="DIR", help="the folder of a run or sweep that was interrupted, was killed or failed"
    )
    library_files(to)
    result_as_json(to)
    to.add_argument("--quiet", action="store_true", help="no progress and no table")
    to.add_argument("--traceback", action="store_true", help="if a node fails, print its calls")
    rank_options(to)
    snapshot_option(to)
    profile_options(to)
    for option in (option for library in libraries for option in library.options):
        if "exec" in option.commands and option.permission:
            with suppress(Exception):  # the first to have a name keeps it
                option.add_to(to)


def command(arguments: Namespace) -> int:
    """`sgd resume`. Exits with 2 if the run cannot go on, and with the codes of `sgd exec` otherwise."""
    from ..sweep.sweep_file import is_sweep

    try:
        if is_sweep(Path(arguments.run)):
            from ..sweep.resumed_sweep import resume_sweep

            _refuse_for_sweep(arguments)
            stopped = refused("resume of a sweep")
            return resume_sweep(Path(arguments.run), arguments) if stopped is None else stopped
    except (LibraryError, NodeError) as error:
        return wrong(str(error), error.help)
    return in_place(lambda place: _in_place(arguments, place))


def _in_place(arguments: Namespace, place: RankPlace | None) -> int:
    from ...runtime.observers.progress import Progress

    try:
        if arguments.quiet or (place is not None and place.rank):
            return _resume(arguments, None, place)
        with Progress(display=arguments.display) as progress:
            return _resume(arguments, progress, place)
    except (LibraryError, NodeError) as error:
        return wrong(str(error), error.help)


def _refuse_for_sweep(arguments: Namespace) -> None:
    """Raise a NodeError for an option that only a single run has."""
    plain = ArgumentParser()
    rank_options(plain)
    snapshot_option(plain)
    profile_options(plain)
    for name, value in vars(plain.parse_args([])).items():
        if getattr(arguments, name) != value:
            option = f"--{name.replace('_', '-')}"
            raise NodeError(f"{option} is for a single run, and {arguments.run} is a sweep", help=f"leave out {option}")


def _resume(arguments: Namespace, progress: Progress | None, place: RankPlace | None) -> int:
    out = Path(arguments.run).absolute()
    folder = SnapshotFolder(out)
    _require_run(out, folder)
    started = folder.started()
    try:
        arguments.library = [str(Path(each).absolute()) for each in arguments.library]
        for name in ("trace", "trace_values"):
            if (given := getattr(arguments, name)) is not None:
                setattr(arguments, name, str(Path(given).absolute()))
        _require_given(started, arguments)
        where, source = Path(started["folder"]), Path(started["file"])
        if not where.is_dir():
            raise NodeError(
                f"the run was started in {where}, which is no longer there", help=f"make it again; or {OVER}"
            )
        arguments.started_in = Path.cwd()
        with chdir(where):  # paths on the command line of the run are relative to it
            return _go_on(arguments, started, source, folder, progress, place)
    except (KeyError, TypeError, AttributeError) as error:
        raise UnreadableFile(f"{folder.path / BEGUN} is damaged: {type(error).__name__}: {error}", help=OVER) from None


def _require_run(out: Path, folder: SnapshotFolder) -> None:
    """Raise a NodeError with the reason if there is nothing to go on with."""
    if not out.is_dir():
        raise NodeError(f"{out} is not a folder", help="name the output folder of a run")
    if folder.has_begun():
        return
    status = None
    if (out / "run.json").is_file():
        with suppress(UnreadableFile):
            record = read_json(out / "run.json", most=LARGEST)
            status = record.get("status") if isinstance(record, dict) else None
    if status == "done":
        raise NodeError(
            f"the run in {out} is finished: there is nothing left to do", help=f"`sgd replay {out}` runs it again"
        )
    if status is not None:
        message = f"the run in {out} has no snapshots ({FOLDER}), so it cannot go on"
        raise NodeError(message, help=f"`sgd exec {out}` runs its workflow again")
    raise NodeError(f"{out} holds no run", help="name the output folder of a run that was interrupted")


def _require_given(started: dict[str, Any], arguments: Namespace) -> None:
    """Raise a NodeError if a library or a permission of the run is not given again. No file can give them."""
    import hashlib

    given = {}
    for each in arguments.library:
        with suppress(OSError):  # loading it says why
            given[Path(each).name] = hashlib.sha256(Path(each).read_bytes()).hexdigest()
    for path, sha256 in started["libraries"]:
        name = Path(path).name
        if name not in given and not any(Path(each).name == name for each in arguments.library):
            help = f"pass it again: --library {path}"
            raise NodeError(f"the run was started with --library {name}, and no file can load code", help=help)
        if given.get(name, sha256) != sha256:
            raise NodeError(f"--library {name} has changed since the run was started", help=f"put it back; or {OVER}")
    for name in started["permissions"]:
        if not getattr(arguments, f"option_{name.replace('-', '_')}", False):
            message = f"the run was started with --{name}, and no file can give that permission"
            raise NodeError(message, help=f"pass it again: --{name}")


def _go_on(
    arguments: Namespace,
    started: dict[str, Any],
    source: Path,
    folder: SnapshotFolder,
    progress: Progress | None,
    place: RankPlace | None,
) -> int:
    from ...contract.device import choose
    from ...runtime.clock import COMPILE, IMPORT, Clock
    from ...runtime.import_times import watched
    from ...runtime.ranks.run_ranks import RunRanks
    from ...runtime.run import run
    from ...runtime.run_snapshots import Snapshots

    profile = profiling_of(arguments)
    if progress is not None:
        progress.phase(f"checking {folder.out}")
    clock = Clock.of_command()
    with watched(clock), clock.during(COMPILE):
        try:
            library = load_library(arguments)
        except LibraryError as error:
            raise NodeError(str(error), help=error.help) from error
        given = added_options(arguments, library) | started["options"]
        inputs, settings = (
            {name: Given(value, False, Path.cwd()) for name, value in started[key].items()} for key in ("inputs", "set")
        )
        asked = _asked(arguments, started)
        checked = check(source, inputs, settings, library, complete=True, options=given, asked=asked)
        if checked.diagnostics and (checked.errors or not told_elsewhere()):
            say(render(checked.diagnostics, checked.sources))
        if checked.errors:
            say(f"help: the workflow is not as it was when the run was started; {OVER}")
            return WRONG
        plan = plan_of(checked, library)
    with clock.during(IMPORT):
        device = choose(started["device"], plan.libraries)
    mesh = checked.mesh
    require_all_cards(started["device"], mesh.size, place, plan.libraries)
    if mesh.size > 1:
        if started.get("overlap", False):
            raise NodeError("a run with --overlap goes on in one process", help="give `--processes 1`")
        if place is None:
            profile.require_startable(plan, device, True)
    ranks = RunRanks(plan, place, mesh, device, clock, profile) if place is not None and mesh.size > 1 else None
    if ranks is not None and ranks.place.rank:
        return run_other_rank(folder.out, plan, ranks, given | {"device": device}, clock)
    resumed = resumed_from(plan, started, folder, given, device)
    if mesh.size > 1 and ranks is None:
        if progress is not None:
            progress.stop()
        with chdir(arguments.started_in):  # paths on the command line are relative to it
            return run_in_ranks(arguments, plan, mesh, device=device, out=folder.out, overwrite=True, named=True)
    if progress is not None:
        progress.phase(f"going on {resumed.place}")
    with held():
        with redirect_stdout(sys.stderr):  # text that nodes print is not part of the result
            done = run(
                plan,
                out=folder.out,
                device=device,
                options=given | {"device": device},
                overwrite=True,
                observers=[progress] if progress is not None else [],
                clock=clock,
                metadata=started["metadata"],
                profile=profile,
                snapshots=Snapshots(arguments.snapshot_every, resumed=resumed),
                store=store_again(started["store"], profile),
                ranks=ranks,
                overlap=_overlap(started, device),
            )
        if done.status == "interrupted" or pending():
            return tell_interrupt(done, plan, arguments)
    code = tell_end(done, plan, given, device, arguments)
    if code is not None:
        return code
    if not arguments.json and not arguments.quiet:
        if ranks is not None:
            show(f"processes: {mesh.size} ({mesh})")
        show(f"record: {done.folder / 'run.json'}")
        show(f"resumed: {resumed.place}")
        for option, path in profile.files().items():
            show(f"{option}: {path}")
    return tell_expectations(done.record, False, arguments.quiet or arguments.json)


def _overlap(started: dict[str, Any], device: str) -> bool | str:
    """The overlap of the run. Both threads share one GPU if that of the second thread is gone."""
    from ...contract.device import require_second_card

    overlap: bool | str = started.get("overlap", False)
    if isinstance(overlap, str):
        try:
            require_second_card(overlap, device)
        except NodeError as error:
            say(f"warning: {error}; the run goes on with `--overlap` on one device")
            return True
    return overlap


def _asked(arguments: Namespace, started: dict[str, Any]) -> Asked:
    """The number and arrangement of the processes: from the command line or the launcher, else those of before."""
    asked, before = asked_of(arguments), mesh_of(started.get("parallel", {}))
    assert asked is not None, "this command takes the options"
    count = asked.processes or (asked.mesh or before).size
    mesh = asked.mesh or (before if count == before.size else Mesh() if count == 1 else None)
    return Asked(count, mesh)
