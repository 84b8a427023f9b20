"""Run what a sweep has not finished yet, then write its table and its page. `sgd sweep` and `sgd resume` call this."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from shutil import rmtree

from ...compiler.read_paths import read_paths
from ...contract.constants import DONE, FAILED, INTERRUPTED, WRONG
from ...contract.device import choose
from ...contract.errors import NodeError
from ...contract.events import Observer
from ...contract.interrupts import end, held, pending, reported
from ...contract.suggestions import did_you_mean
from ...contract.text_tables import seconds
from ...language.registry import Library
from ...runtime.output_folder import OutputFolder
from ...runtime.prepared_folder import default_folder
from ...runtime.resume_checks import changed_code, changed_states, file_states
from ...store.fingerprints import codes_of, packages_of
from ..comparison.compare_command import Counting
from ..page_files import page_beside, write_page
from ..store_option import store_folder
from ..terminal import flush, say, show, stdout_width
from .checked_plans import CheckedPlans, checked_plans
from .combination_runs import Outcome, finished, run_all
from .combinations import Combination
from .measured_runs import Measured, measured_runs
from .settings_summary import settings_of
from .sweep_file import Sweep, hash_of, is_sweep, read_sweep, write_sweep
from .sweep_table import combinations_table, settings_table

PAGE = "sweep.html"
STORE = ".store"
"""The results that the runs of a sweep share, in its folder. Removed when the sweep is over."""


@dataclass(frozen=True)
class Shown:
    """What a command shows: the result as JSON, nothing but errors, the calls that led to an error."""

    as_json: bool = False
    quiet: bool = False
    traceback: bool = False


def begin(sweep: Sweep, out: Path | None, library: Library, shown: Shown) -> int:
    """Run a sweep in a new folder, or go on with the same sweep in its folder.

    Returns:
        The exit code.

    Raises:
        NodeError: If the folder holds another sweep or cannot be written, or the values do not go together.
    """
    if out is not None and is_sweep(out):
        before = read_sweep(out)
        if (differing := _difference(before, sweep)) is not None:
            raise NodeError(f"{out} holds another sweep: {differing}", help="choose another --out")
        known = replace(sweep, files=before.files, versions=before.versions, code=before.code)
        return go_on(known, out, library, shown)
    folder = out or default_folder(f"{sweep.name}-sweep")
    if out is not None and out.is_dir() and any(out.iterdir()):
        raise NodeError(f"{out} is not empty, and holds no sweep", help="choose another --out")
    return _all(sweep, folder, library, shown, new=True)


def go_on(sweep: Sweep, folder: Path, library: Library, shown: Shown) -> int:
    """Go on with the sweep of a folder: runs that are done stay, all others begin anew.

    Args:
        sweep: The sweep, from `read_sweep`. Its libraries are loaded in further processes.
        folder: The folder; see `sweep_file.is_sweep`.
        library: The node types.
        shown: What to show.

    Returns:
        The exit code.

    Raises:
        NodeError: If the workflow, a file that it reads or a package has changed since, or another process runs the
            sweep.
    """
    if hash_of(sweep.file) != sweep.sha256:
        raise NodeError(
            f"{sweep.file} has changed since the sweep in {folder} began",
            help=APART,
        )
    return _all(sweep, folder, library, shown, new=False)


APART = "runs of two kinds would stand side by side; begin the sweep again with another --out"


def _require_unchanged(sweep: Sweep, folder: Path, library: Library) -> None:
    """Raise a NodeError if the runs that are left would not be like those that are done."""
    reasons = list(changed_states(sweep.files))
    now = packages_of(library.libraries.values())
    for name, version in sweep.versions.items():
        if now.get(name) != version:
            reasons.append(f"{name} was {version or 'not installed'}, and is {now.get(name) or 'not installed'}")
    reasons += changed_code(sweep.code, codes_of(library.nodes.values()))
    if reasons:
        shown = "".join(f"\n  {reason}" for reason in reasons)
        raise NodeError(f"the sweep in {folder} cannot go on, since its runs would differ:{shown}", help=APART)


DIFFERENT = {
    "base": "it was started in another folder, and paths are relative to that",
    "varied": "it varies other values",
    "reference": "it has another --reference",
    "inputs": "it has other values of inputs",
    "settings": "it has other --set",
    "libraries": "it has other --library files",
    "device": "it has another --device",
    "options": "it has other options",
    "output": "it has another --output",
    "metadata": "only one of both has --no-metadata",
    "jobs": "it has another --jobs, so times differ",
    "store": "it has another --store",
    "ray": "only one of both has --ray, so times differ",
}
"""How two sweeps differ, by the attribute that does."""


def _difference(before: Sweep, now: Sweep) -> str | None:
    """The first thing that differs between the sweep of a folder and that of a command line; None if nothing does."""
    if before.sha256 != now.sha256:
        return f"{before.file} had other bytes" if before.file == now.file else f"it is of {before.file}"
    one, other = (json.loads(json.dumps(asdict(each))) for each in (before, now))
    return next((text for name, text in DIFFERENT.items() if one[name] != other[name]), None)


def _all(sweep: Sweep, folder: Path, library: Library, shown: Shown, new: bool) -> int:
    store, jobs = _store(sweep, folder), sweep.jobs
    todo = [each for each in sweep.combinations if not finished(folder / each.folder)]
    if todo and not new:
        _require_unchanged(sweep, folder, library)
    checked = _checked(sweep, todo, library, shown)
    for text in checked.problems:
        say(text)
    if checked.failed:
        return WRONG
    plan = next(iter(checked.plans.values()), None)
    if plan is not None and sweep.output is not None and sweep.output not in plan.outputs:
        names = ", ".join(plan.outputs) or "none"
        raise NodeError(f"--output {sweep.output}: the workflow has no such output",
                        help=did_you_mean(sweep.output, plan.outputs) or f"outputs: {names}")  # fmt: skip
    if jobs > 1 and plan is not None and choose(sweep.device, plan.libraries) != "cpu":
        raise NodeError("--jobs needs a CPU: several processes would share one GPU", help="add --device cpu")
    with held():
        owned = OutputFolder(folder, new=new and not folder.exists())
        try:
            if new:
                write_sweep(_with_files(sweep, checked, library), folder)
            outcomes = _run(sweep, todo, checked, folder, shown, store, jobs, library)
            code = _finish(sweep, folder, library, shown, outcomes)
            if code != INTERRUPTED:
                rmtree(folder / STORE, ignore_errors=True)
            return code
        finally:
            owned.release()


def _with_files(sweep: Sweep, checked: CheckedPlans, library: Library) -> Sweep:
    """A sweep that knows its files and packages as they are now."""
    read = (path for plan in checked.plans.values() for path in read_paths(plan.calls(), plan.loaded))
    libraries = (Path(each).absolute() for each in sweep.libraries)
    states = file_states(dict.fromkeys([*sorted(checked.files), *libraries, *read]))
    versions, code = packages_of(library.libraries.values()), codes_of(library.nodes.values())
    return replace(sweep, files=tuple(states), versions=versions, code=code)


def _store(sweep: Sweep, folder: Path) -> Path | None:
    """The folder of stored results; None for none.

    Runs that are compared share results with each other alone: a loop of an earlier day has no seconds to compare.
    """
    store = store_folder(sweep.store)
    return folder / STORE if store is not None and sweep.store is None and sweep.reference else store


def _checked(sweep: Sweep, todo: Sequence[Combination], library: Library, shown: Shown) -> CheckedPlans:
    if not shown.quiet and len(todo) > 20 and sys.stderr is not None and sys.stderr.isatty():
        say(f"checking {len(todo)} combinations")
    return checked_plans(sweep, todo, library)


def _run(
    sweep: Sweep,
    todo: Sequence[Combination],
    checked: CheckedPlans,
    folder: Path,
    shown: Shown,
    store: Path | None,
    jobs: int,
    library: Library,
) -> list[Outcome]:
    total, kept = len(sweep.combinations), len(sweep.combinations) - len(todo)
    counted = kept
    if kept and not shown.quiet:
        say(f"{kept} of {total} runs are done already")
    labels = {each.number: each.label() for each in todo}

    def told(outcome: Outcome) -> None:
        nonlocal counted
        counted += 1
        if outcome.status == "failed":
            say(f"error: run {outcome.number} ({labels[outcome.number]}) failed: {outcome.error}")
            if shown.traceback and outcome.trace:
                say(f"\n{outcome.trace}\n")
        elif outcome.status == "done" and not shown.quiet:
            say(f"{counted} of {total}: {labels[outcome.number]}: {seconds(outcome.seconds)} s")

    if sweep.ray:
        from .combination_jobs import run_as_jobs

        return run_as_jobs(sweep, todo, checked.plans, folder, told, store is not None, library)
    if jobs > 1:
        from .parallel_runs import run_in_processes

        return run_in_processes(sweep, todo, checked.plans, folder, told, store, min(jobs, max(1, len(todo))))

    def watch() -> Sequence[Observer]:
        from ...runtime.observers.progress import Progress

        return [] if shown.quiet else [Progress()]

    return run_all(sweep, todo, checked.plans, folder, told, store, watch)


def _finish(sweep: Sweep, folder: Path, library: Library, shown: Shown, outcomes: Sequence[Outcome]) -> int:
    """Tell how the sweep ended, and write its page."""
    interrupted = pending() or any(each.status == "interrupted" for each in outcomes)
    if interrupted:
        done = sum(finished(folder / each.folder) for each in sweep.combinations)
        say(f"interrupted; {done} of {len(sweep.combinations)} runs are done, in {folder}; {how_to_go_on(folder)}")
        reported()
        if any(each.stuck for each in outcomes):
            flush()
            end()
        return INTERRUPTED
    errors = {each.number: each.error for each in outcomes if each.error}
    with Counting() as progress:
        found = measured_runs(sweep, folder, library.libraries.values(), progress, errors)
    settings = settings_of(sweep, found)
    page = _page(sweep, folder, found)
    if shown.as_json:
        content = {
            "sweep": str(folder),
            "page": str(page),
            "reference": {each.name: each.value for each in sweep.reference} or None,
            "runs": [each.json() for each in found],
            "settings": [each.json() for each in settings],
        }
        show_json(content)
    elif not shown.quiet:
        show()
        width = stdout_width()
        show(settings_table(settings, width) if settings else combinations_table(found, width))
        if reused := sum(each.reused for each in found):
            show(f"\n{reused} runs reuse stored loops, and have no loop seconds; --store off runs every loop")
        show(f"\nsweep: {folder}\npage: {page}")
    failed = [each for each in found if each.status != "done"]
    if failed:
        say(f"error: {len(failed)} of {len(found)} runs failed; {how_to_go_on(folder)}")
    for each in found:
        if each.alike is not None and each.alike.problem:
            say(f"warning: run {each.combination.number} ({each.combination.label()}): {each.alike.problem}")
    return FAILED if failed else DONE


def _page(sweep: Sweep, folder: Path, found: Sequence[Measured]) -> Path:
    from .sweep_page import sweep_page

    path = page_beside(folder, PAGE)
    text, notes = sweep_page(sweep, found, settings_of(sweep, found), folder)
    write_page(path, text)
    for note in notes:
        say(f"warning: {note}")
    return path


def how_to_go_on(folder: Path) -> str:
    """How to go on with a sweep, as part of a sentence."""
    return f"`sgd resume {shlex.quote(str(folder))}` goes on"


def show_json(content: object) -> None:
    """Print JSON on stdout, as it is."""
    print(json.dumps(content, indent=1, allow_nan=False))
