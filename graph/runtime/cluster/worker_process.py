"""The process of a worker: it opens the work once, and runs the jobs that it is given, one after the other."""

from __future__ import annotations

import platform
import tempfile
import time
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from shutil import rmtree

from ...contract.errors import SgdError
from ...contract.file_locks import alone
from .job_result import JobResult, OpenWork, Started, Work

PREFIX, LOCK = "sgd-worker-", "lock"
YOUNG_SECONDS = 60.0
"""The age from which a folder without a lock is left over: a new worker locks its folder sooner."""


class WorkerProcess:
    """A worker. Ray makes it in a process of its own, and calls its methods in the main thread there.

    Args:
        number: Its number, from 1.
        work: The work.
        scratch: The folder for temporary files; None for that of the machine.
    """

    def __init__(self, number: int, work: Work, scratch: str | None) -> None:
        self.number, self.work = number, work
        self.stack = ExitStack()
        base = Path(scratch or tempfile.gettempdir())
        remove_left(base)
        self.scratch = Path(self.stack.enter_context(tempfile.TemporaryDirectory(prefix=PREFIX, dir=base)))
        self.stack.enter_context(alone(self.scratch / LOCK))
        self.open: OpenWork | None = None

    def start(self) -> Started:
        """Get ready for jobs."""
        kept = self.scratch / "kept"
        kept.mkdir()
        try:
            self.open = self.stack.enter_context(self.work.opened(kept))
        except SgdError as error:
            help = getattr(error, "help", None)
            return Started(platform.node(), f"{error}; {help}" if help else str(error))
        return Started(platform.node(), warnings=self.open.warnings)

    def run(self, job: int) -> JobResult:
        """Run a job."""
        assert self.open is not None
        with tempfile.TemporaryDirectory(prefix="job-", dir=self.scratch) as folder:
            return replace(self.open.run(job, Path(folder)), worker=self.number)

    def wake(self) -> None:
        """Return at once, which shows that this worker is still there."""

    def end(self) -> None:
        """Free everything. The process ends then."""
        self.stack.close()


def remove_left(base: Path) -> None:
    """Remove the folders of workers that were killed. A worker that lives holds the lock in its own."""
    for folder in base.glob(f"{PREFIX}*"):
        with suppress(OSError):  # a folder of another user
            if time.time() - folder.stat().st_mtime > YOUNG_SECONDS:
                with alone(folder / LOCK) as free:
                    if free:
                        rmtree(folder)


def files_below(folder: Path, without: tuple[str, ...] = ()) -> dict[str, bytes]:
    """The content of the files in a folder, by their path in it. Links are not followed."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and not path.is_symlink() and name not in without:
            found[name] = path.read_bytes()
    return found
