"""Deal jobs to workers: a worker gets its next job when it has ended one. Workers may die, leave and join meanwhile.

A job whose worker dies goes to another worker. Nothing else is computed again, since the results of ended jobs are
here already. So each result is reported once.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ...contract import interrupts
from ...contract.errors import NodeError
from .job_result import JobResult, Started, Work
from .ray_cluster import Cluster
from .worker_process import WorkerProcess

POLL_SECONDS = 0.1
HIRE_SECONDS = 1.0
"""How often the dealer looks for workers that have joined."""
MOST_ATTEMPTS = 3
"""A job fails if its worker has died this often."""
REST_SECONDS = 1.0
"""A worker that has been idle for longer must answer before it gets a job: it may be gone."""
FAREWELL_SECONDS = 5.0
"""Seconds that idle workers have at the end to free their resources."""


@dataclass(eq=False)
class HiredWorker:
    """A worker, as the dealer knows it.

    Attributes:
        number: Its number, from 1.
        actor: The Ray actor that runs it.
        started: Where it runs; None before it has started.
        jobs: How many jobs it has ended.
        seconds: How long these took.
        left: Whether it died or left.
        resting: When it ended its last job, in seconds of `time.monotonic`.
    """

    number: int
    actor: Any
    started: Started | None = None
    jobs: int = 0
    seconds: float = 0.0
    left: bool = False
    resting: float = 0.0


@dataclass
class Dealer:
    """Deals jobs to the workers of a cluster, one at a time to each.

    Args:
        cluster: The cluster.
        work: The jobs, as they travel to the workers.
        gpu: Whether each worker has a GPU; otherwise each has a core.
        told: Receives each result, once.
        say: Receives lines about the workers for the user.
        named: Gives the name of a job in these lines.

    Attributes:
        workers: All workers that have started, in the order of their numbers.
    """

    cluster: Cluster
    work: Work
    gpu: bool
    told: Callable[[JobResult], None]
    say: Callable[[str], None]
    named: Callable[[int], str] = "job {}".format
    workers: list[HiredWorker] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._queue: deque[int] = deque()
        self._attempts: Counter[int] = Counter()
        self._starting: dict[Any, HiredWorker] = {}
        self._busy: dict[Any, tuple[HiredWorker, int]] = {}
        self._idle: list[HiredWorker] = []
        self._waking: dict[Any, HiredWorker] = {}
        self._refused: list[HiredWorker] = []  # they keep their GPU or core: another worker there fails too
        self._problem = ""
        self._hired = 0
        self._died = 0  # workers in a row that died before they had started
        self._looked = 0.0
        self._said: set[str] = set()

    def deal(self, jobs: Sequence[int]) -> list[int]:
        """Deal jobs until all have ended, or until an interrupt.

        Returns:
            The jobs that have not ended.

        Raises:
            NodeError: If no worker can take part.
        """
        self._queue.extend(jobs)
        try:
            while (self._queue or self._busy) and not interrupts.pending():
                self._hire()
                self._give()
                self._wait()
            return sorted([*self._queue, *(job for _, job in self._busy.values())])
        finally:
            self._dismiss()

    def _hire(self) -> None:
        now = time.monotonic()
        if now - self._looked < HIRE_SECONDS:
            return
        self._looked = now
        kind = "GPU" if self.gpu else "CPU"
        slots = self.cluster.count(kind)
        able = len(self._starting) + len(self._busy) + len(self._idle) + len(self._waking)
        if not able and (self._died >= MOST_ATTEMPTS or 0 < slots <= len(self._refused)):
            help = "solve this on the machines of the cluster, or run without --ray"
            raise NodeError(f"no worker can take part: {self._problem}", help=help)
        if not slots and not able:
            self._say_once(f"warning: the cluster has no {kind}; {len(self._queue)} jobs wait until one joins")
        wanted = min(slots - len(self._refused), len(self._queue) + len(self._busy))
        for _ in range(wanted - able if self._died < MOST_ATTEMPTS else 0):
            self._hired += 1
            actors = self.cluster.ray.remote(WorkerProcess).options(max_restarts=0, **self.cluster.share(self.gpu))
            actor = actors.remote(self._hired, self.work, self.cluster.scratch)
            self._starting[actor.start.remote()] = HiredWorker(self._hired, actor)

    def _give(self) -> None:
        while self._idle and self._queue:
            hired = self._idle.pop()
            if time.monotonic() - hired.resting > REST_SECONDS:
                self._waking[hired.actor.wake.remote()] = hired
                continue
            job = self._queue.popleft()
            self._attempts[job] += 1
            self._busy[hired.actor.run.remote(job)] = hired, job

    def _wait(self) -> None:
        pending = [*self._busy, *self._starting, *self._waking]
        if not pending:
            time.sleep(POLL_SECONDS)
            return
        ready, _ = self.cluster.ray.wait(pending, num_returns=1, timeout=POLL_SECONDS)
        for reference in ready:
            if reference in self._starting:
                self._has_started(self._starting.pop(reference), reference)
            elif reference in self._waking:
                self._has_woken(self._waking.pop(reference), reference)
            else:
                self._has_ended(*self._busy.pop(reference), reference)

    def _has_started(self, hired: HiredWorker, reference: Any) -> None:
        errors = self.cluster.ray.exceptions
        try:
            found: Started = self.cluster.ray.get(reference)
        except errors.RayTaskError as error:
            found = Started("", _reason(error))
        except errors.RayError as error:
            self._died, self._problem = self._died + 1, f"a worker process died at the start: {_reason(error)}"
            self._kill(hired)
            if self._died == MOST_ATTEMPTS:
                self._say_once(f"warning: no more workers are started, since {self._died} died at the start")
            return
        hired.started, self._died = found, 0
        if found.problem:
            self._problem = found.problem
            self._refused.append(hired)
            where = f" on {found.host}" if found.host else ""
            self._say_once(f"warning: workers{where} cannot take part: {found.problem}")
            return
        for warning in found.warnings:
            self._say_once(f"warning: {found.host}: {warning}")
        self.workers.append(hired)
        self._rest(hired)

    def _has_woken(self, hired: HiredWorker, reference: Any) -> None:
        try:
            self.cluster.ray.get(reference)
        except self.cluster.ray.exceptions.RayError:
            hired.left = True
            self._kill(hired)
            return
        self._rest(hired)

    def _rest(self, hired: HiredWorker) -> None:
        hired.resting = time.monotonic()
        self._idle.append(hired)

    def _has_ended(self, hired: HiredWorker, job: int, reference: Any) -> None:
        errors = self.cluster.ray.exceptions
        try:
            result: JobResult = self.cluster.ray.get(reference)
        except errors.RayTaskError as error:  # an error outside of nodes: the result tells those of nodes
            result = JobResult(job, "failed", error=_reason(error), worker=hired.number)
        except errors.RayError:
            hired.left = True
            self._kill(hired)
            self._lost(hired, job)
            return
        hired.jobs, hired.seconds = hired.jobs + 1, hired.seconds + (result.seconds or 0.0)
        self._rest(hired)
        self._tell(result)

    def _lost(self, hired: HiredWorker, job: int) -> None:
        host = hired.started.host if hired.started is not None else "?"
        died = f"worker {hired.number} on {host} died or left"
        if self._attempts[job] < MOST_ATTEMPTS:
            self._queue.appendleft(job)
            self.say(f"warning: {died}; another one computes {self.named(job)} again")
        else:
            self._tell(JobResult(job, "failed", error=f"{self._attempts[job]} workers died with it; the last: {died}"))

    def _tell(self, result: JobResult) -> None:
        self.told(replace(result, attempts=self._attempts[result.job]))

    def _dismiss(self) -> None:
        """End all workers. Idle ones may free their resources first, except after an interrupt."""
        idle = [] if interrupts.pending() else self._idle
        farewells = [hired.actor.end.remote() for hired in idle]
        if farewells:
            self.cluster.ray.wait(farewells, num_returns=len(farewells), timeout=FAREWELL_SECONDS)
        working = [hired for hired, _ in self._busy.values()]
        for hired in (*self._idle, *self._refused, *self._waking.values(), *self._starting.values(), *working):
            self._kill(hired)

    def _say_once(self, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            self.say(text)

    def _kill(self, hired: HiredWorker) -> None:
        self.cluster.ray.kill(hired.actor, no_restart=True)


def _reason(error: BaseException) -> str:
    """An error of a worker in one line: the last one that Ray gives is that of the worker itself."""
    lines = str(getattr(error, "cause", None) or error).strip().splitlines()
    return lines[-1].strip() if lines else type(error).__name__
