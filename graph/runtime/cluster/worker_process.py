"""The process of a worker: it opens the work once, and runs the jobs that it is given, one after the other."""

from __future__ import annotations

import platform
import tempfile
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from ...contract.errors import SgdError
from .job_result import JobResult, OpenWork, Started, Work


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
        self.scratch = Path(self.stack.enter_context(tempfile.TemporaryDirectory(prefix="sgd-worker-", dir=scratch)))
        self.open: OpenWork | None = None

    def start(self) -> Started:
        """Get ready for jobs."""
        kept = self.scratch / "kept"
        kept.mkdir()
        try:
            self.open = self.stack.enter_context(self.work.opened(kept))
        except SgdError as error:
            return Started(platform.node(), str(error))
        return Started(platform.node(), warnings=self.open.warnings)

    def run(self, job: int) -> JobResult:
        """Run a job."""
        assert self.open is not None
        with tempfile.TemporaryDirectory(prefix="job-", dir=self.scratch) as folder:
            return replace(self.open.run(job, Path(folder)), worker=self.number)

    def wake(self) -> None:
        """Return at once: this worker is still there."""

    def end(self) -> None:
        """Free everything. The process ends then."""
        self.stack.close()


def files_below(folder: Path, without: tuple[str, ...] = ()) -> dict[str, bytes]:
    """The content of the files in a folder, by their path in it. Links are not followed."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and not path.is_symlink() and name not in without:
            found[name] = path.read_bytes()
    return found
