"""`--ray`: the runs of a sweep as jobs on a Ray cluster. Each worker warms up before its first run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import chdir, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from ...compiler.plan import Plan
from ...contract.errors import NodeError
from ...contract.events import Observer
from ...contract.output_files import replace_text, unwritable
from ...language.registry import Library, installed
from ...runtime.cluster.dealing import Dealer
from ...runtime.cluster.job_result import JobResult, OpenWork
from ...runtime.cluster.ray_cluster import connected
from ...runtime.cluster.version_differences import version_differences
from ...runtime.cluster.worker_process import files_below
from ...runtime.context import RECORD, Context
from ...runtime.output_folder import OutputFolder
from ...runtime.session import session
from ...store.fingerprints import packages_of
from ..terminal import say
from .checked_plans import checked_plans
from .combination_runs import Outcome, Told, run_all
from .combinations import Combination
from .sweep_file import Sweep, hash_of


def run_as_jobs(
    sweep: Sweep,
    todo: Sequence[Combination],
    plans: Mapping[int, Plan],
    folder: Path,
    told: Told,
    reuse: bool,
    library: Library,
) -> list[Outcome]:
    """Run combinations on the workers of a cluster. An interrupt gives up those under way.

    Args:
        sweep: The sweep.
        todo: The combinations to run.
        plans: The plan of each, by its number.
        folder: The folder of the sweep.
        told: Called after each run.
        reuse: Whether the runs of one worker share results.
        library: The node types.

    Raises:
        NodeError: If there is no cluster, or no worker can take part.
    """
    found: list[Outcome] = []
    if not todo:
        return found
    libraries = [library for plan in plans.values() for library in plan.libraries]

    def ended(result: JobResult) -> None:
        combination = sweep.combinations[result.job]
        outcome = Outcome(combination.number, result.status, result.seconds, result.error, trace=result.trace)
        try:
            _place(folder / combination.folder, result.files)
        except NodeError as error:
            outcome = replace(outcome, status="failed", error=str(error))
        found.append(outcome)
        told(outcome)

    with connected(sweep.ray_address) as cluster:
        device = cluster.device(sweep.device, libraries)
        versions = packages_of(library.libraries.values())
        work = SweepWork(replace(sweep, device=device, files=(), versions=versions), reuse)
        dealer = Dealer(cluster, work, device == "cuda", ended, say, lambda job: f"run {job + 1}")
        left = dealer.deal([each.number - 1 for each in todo])
    return [*found, *(Outcome(job + 1, "interrupted") for job in left)]


def _place(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write the files of a run, its record last, each in one step.

    Raises:
        NodeError: If one cannot be written.
    """
    owned = OutputFolder(folder)
    try:
        context = Context(folder, Observer(), overwrite=True, folder=owned)  # an earlier attempt may have left files
        for path, content in files.items():
            if path != RECORD:
                context.write_beside(path, content)
        if RECORD in files:
            replace_text(folder / RECORD, files[RECORD].decode(), owned.noted(folder / RECORD))
    except OSError as error:
        raise unwritable(folder / RECORD, error) from error
    finally:
        owned.release()


@dataclass(frozen=True)
class SweepWork:
    """The runs of a sweep, as they travel to the workers.

    Attributes:
        sweep: The sweep, with the device of the workers and the versions of the packages on the machine that deals.
        reuse: Whether the runs of one worker share results.
    """

    sweep: Sweep
    reuse: bool

    @contextmanager
    def opened(self, kept: Path) -> Iterator[OpenWork]:
        """Load the node types in a worker; see `Work`."""
        sweep = self.sweep
        if not Path(sweep.base).is_dir():
            raise NodeError(f"the folder {sweep.base} is not on this machine", help="start the sweep on a shared disk")
        with chdir(sweep.base):
            if hash_of(sweep.file) != sweep.sha256:
                raise NodeError(f"{sweep.file} differs on this machine", help="copy the sweep's file there")
            library = installed(tuple(map(Path, sweep.libraries)))
            warnings = tuple(version_differences(sweep.versions, library))
            with session():
                yield OpenSweep(sweep, library, kept / "store" if self.reuse else None, warnings)


@dataclass
class OpenSweep:
    """The runs of a sweep in a worker."""

    sweep: Sweep
    library: Library
    store: Path | None
    warnings: tuple[str, ...] = ()
    warm: bool = True

    def run(self, job: int, scratch: Path) -> JobResult:
        """Run a combination; see `OpenWork`."""
        combination = self.sweep.combinations[job]
        checked = checked_plans(self.sweep, [combination], self.library)
        if checked.failed:
            return JobResult(job, "failed", error="\n".join(checked.problems))
        warm, self.warm = self.warm, False
        [done] = run_all(self.sweep, [combination], checked.plans, scratch, lambda _: None, self.store, warm=warm)
        status = "done" if done.status == "done" else "failed"
        error = done.error or ("it was interrupted on its machine" if done.status == "interrupted" else "")
        files = files_below(scratch / combination.folder)
        return JobResult(job, status, done.seconds, error, done.trace, files=files)
