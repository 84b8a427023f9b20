"""The work of a worker, and the results of its jobs and of its start. They travel through Ray as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol


@dataclass(frozen=True)
class JobResult:
    """How a job ended.

    Attributes:
        job: Its number, from 0.
        status: `done` or `failed`.
        seconds: How long it took; None if that is not known.
        error: Why it failed; empty if it did not.
        trace: The calls that led to the error; empty if there is none.
        record: The record of its run; None without one.
        files: The content of the files that it wrote, by their path in its output folder.
        worker: The number of the worker that ended it; 0 if all its workers died.
        attempts: How many workers have begun it.
    """

    job: int
    status: str
    seconds: float | None = None
    error: str = ""
    trace: str = ""
    record: Mapping[str, Any] | None = None
    files: Mapping[str, bytes] = field(default_factory=dict)
    worker: int = 0
    attempts: int = 1


@dataclass(frozen=True)
class Started:
    """The result of the start of a worker.

    Attributes:
        host: The name of its machine.
        problem: Why it cannot take part; empty if it can.
        warnings: Differences to the other machines that may change its results, in words.
    """

    host: str
    problem: str = ""
    warnings: tuple[str, ...] = ()


class OpenWork(Protocol):
    """The work in a worker that is ready: it runs one job after the other, and keeps loaded components between jobs.

    Attributes:
        warnings: See `Started`.
    """

    warnings: tuple[str, ...]

    def run(self, job: int, scratch: Path) -> JobResult:
        """Run a job.

        Args:
            job: Its number.
            scratch: An empty folder for its files, which is removed afterwards.
        """


class Work(Protocol):
    """The work of a run, as it travels to the workers: plain data."""

    def opened(self, kept: Path) -> AbstractContextManager[OpenWork]:
        """Get ready in a worker.

        Args:
            kept: A folder that the worker keeps until its end.

        Raises:
            SgdError: If this worker cannot do the work.
        """
