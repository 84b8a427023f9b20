"""Run the turns of a workflow's mapping loops on workers: make the folder, write the files of jobs and the record."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path

from ...compiler.plan import Plan
from ...contract.errors import NodeError
from ...contract.events import Observer
from ...contract.output_files import unwritable
from ..clock import Clock
from ..context import RECORD, Context
from ..output_folder import OutputFolder
from ..prepared_folder import prepare_folder
from ..record import Recorder
from ..record_file import RecordFile
from ..record_values import clean
from ..run_result import Result
from .dealing import Dealer
from .job_result import JobResult
from .joined_record import job_rows, joined_record, outputs_of, worker_rows
from .ray_cluster import Cluster
from .turn_work import TurnWork

Told = Callable[[JobResult], None]


def run_turns(
    plan: Plan,
    cluster: Cluster,
    work: TurnWork,
    *,
    out: Path | None,
    overwrite: bool,
    clock: Clock,
    told: Told,
    say: Callable[[str], None],
) -> Result:
    """Run the jobs of a workflow on the workers of a cluster. The caller holds interrupts back meanwhile.

    Args:
        plan: The plan of the whole run.
        cluster: The cluster.
        work: The jobs.
        out: The output folder; None for a new one.
        overwrite: Replace files that exist.
        clock: The clock of this process.
        told: Receives the result of each job that has ended.
        say: Receives lines about the workers.

    Raises:
        NodeError: If no worker can take part, or an output cannot be written. Nothing has run then.
    """
    folder = prepare_folder(plan, out, overwrite)
    try:
        if folder.left:
            say(f"warning: {folder.left}")
        context = Context(folder.path, Observer(), work.device, work.options, overwrite, folder=folder)
        turns = TurnRun(plan, work, context, told)
        dealer = Dealer(cluster, work, work.device == "cuda", turns.ended, say)
        problem = turns.deal(dealer)
        return turns.finish(dealer, problem, folder, clock)
    except BaseException:
        folder.release()
        folder.remove_if_empty()
        raise
    finally:
        folder.release()


@dataclass
class TurnRun:
    """The jobs of a run and their results so far."""

    plan: Plan
    work: TurnWork
    context: Context
    told: Told
    results: dict[int, JobResult] = field(default_factory=dict)

    def deal(self, dealer: Dealer) -> NodeError | None:
        """Deal all jobs. Returns the error that kept some from beginning; None if there was none.

        Raises:
            NodeError: If no job has ended, and no worker can take part.
        """
        try:
            dealer.deal(range(self.work.turns.count))
        except NodeError as error:
            if not self.results:
                raise
            return error
        return None

    def ended(self, result: JobResult) -> None:
        """Write the files of a job: each under a temporary name, which becomes its own in one step."""
        try:
            for path, content in result.files.items():
                self.context.write_beside(path, content)
        except NodeError as error:
            result = replace(result, status="failed", error=str(error))
        self.results[result.job] = replace(result, files={})
        self.told(self.results[result.job])

    def finish(self, dealer: Dealer, problem: NodeError | None, folder: OutputFolder, clock: Clock) -> Result:
        """Write the record of the run."""
        count, context = self.work.turns.count, self.context
        failed = [job for job in sorted(self.results) if self.results[job].status != "done"]
        status, error = "done", problem
        if len(self.results) < count:
            status = "failed" if problem is not None else "interrupted"
        elif failed:
            status = "failed"
            error = NodeError(f"{len(failed)} of {count} jobs failed: {', '.join(map(str, failed))}")
        recorder = Recorder(clock=clock, measured=False)
        text = str(error) if error is not None else None
        record = recorder.record(self.plan, context, clock.now(), status, {}, text)
        record = joined_record(record, self.work.turns, self.results)
        outputs = outputs_of(self.plan, self.work.turns, self.results) if status == "done" else {}
        started = datetime.fromtimestamp(clock.epoch).astimezone().isoformat(timespec="seconds")
        record |= {
            "started": started,
            "outputs": outputs,
            "jobs": job_rows(self.results, count),
            "workers": worker_rows(dealer.workers),
        }
        record, unwritten = clean(record), None
        try:
            RecordFile(record, folder.path / RECORD, folder.noted(folder.path / RECORD)).write({})
        except OSError as refused:
            unwritten = str(unwritable(folder.path / RECORD, refused))
            if status == "done":
                status, error = "failed", NodeError(unwritten)
        written = [path for path in context.written if path.exists()]
        return Result(status, outputs, record, folder.path, error, False, written, unwritten)
