"""The numbers of each combination: seconds, computed steps, and how alike its outputs are to its reference's."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ...contract.errors import UnreadableFile
from ...contract.node_library import NodeLibrary
from ..comparison.compared_run import ComparedRun
from ..comparison.output_pairs import OutputPair, Progress, output_pairs
from ..report.run_record import RecordedRun, read_run
from .combinations import Combination, reference_of
from .sweep_file import Sweep


@dataclass(frozen=True)
class Alike:
    """How alike the outputs of two runs are: the output that differs most counts.

    Attributes:
        psnr: In dB; infinity for equal pixels or bytes; None if no output could be compared.
        ssim: From -1 to 1; None if no output could be compared.
        problem: Why some output was not compared; empty if each was.
    """

    psnr: float | None = None
    ssim: float | None = None
    problem: str = ""


@dataclass(frozen=True)
class Measured:
    """A combination and its numbers.

    Attributes:
        combination: The combination.
        status: `done`, `failed`, `interrupted`, or `not run`.
        loop_seconds: Seconds of all loops; None if the run is not done or has none.
        seconds: Seconds of the whole run.
        steps: Turns of the loops that were computed in full. A turn with some of its branches computed counts in part.
        turns: All turns of the loops.
        reused: Whether stored results stand in for a loop, so that there are no `loop_seconds`.
        reference: The number of the combination that it is compared with; None without a reference, or if that run is
            not done.
        alike: How alike its outputs are to those of the reference.
        share: Its `loop_seconds` as a share of the reference's, or its `seconds` where there is no loop.
        error: Why it failed.
        outputs: The record's outputs.
    """

    combination: Combination
    status: str
    loop_seconds: float | None = None
    seconds: float | None = None
    steps: float | None = None
    turns: int = 0
    reused: bool = False
    reference: int | None = None
    alike: Alike | None = None
    share: float | None = None
    error: str = ""
    outputs: dict[str, Any] | None = None

    @property
    def is_reference(self) -> bool:
        return self.reference == self.combination.number

    @property
    def compared_seconds(self) -> float | None:
        """The seconds that runs are compared by: those of the loops, or of the whole where there is no loop."""
        return self.loop_seconds if self.loop_seconds is not None or self.reused else self.seconds

    def json(self) -> dict[str, Any]:
        """The combination as plain data."""
        alike = self.alike
        return {
            "number": self.combination.number,
            "values": dict(self.combination.values),
            "folder": self.combination.folder,
            "status": self.status,
            "loop_seconds": self.loop_seconds,
            "seconds": self.seconds,
            "computed_steps": self.steps,
            "steps": self.turns,
            "reused": self.reused,
            "reference": self.reference,
            "share": self.share,
            "likeness": None
            if alike is None
            else {**asdict(alike), "psnr": finite(alike.psnr), "equal": alike.psnr == math.inf},
            "error": self.error or None,
            "outputs": self.outputs,
        }


def measured_runs(
    sweep: Sweep, folder: Path, libraries: Iterable[NodeLibrary], progress: Progress, errors: dict[int, str]
) -> tuple[Measured, ...]:
    """Read the records of a sweep, and compare each run with its reference.

    Args:
        sweep: The sweep.
        folder: Its folder.
        libraries: Node libraries, which compare pixels and know which steps were computed.
        progress: Receives the number of compared frames.
        errors: Why combinations without a record failed, by number.
    """
    libraries, all_ = list(libraries), sweep.combinations
    runs: dict[int, RecordedRun] = {}
    for combination in all_:
        try:
            runs[combination.number] = read_run(str(folder / combination.folder))
        except UnreadableFile:
            continue
    found = {c.number: _measured(c, runs.get(c.number), libraries, errors.get(c.number, "")) for c in all_}
    compared = []
    for combination in all_:
        one, reference = found[combination.number], reference_of(combination, all_, sweep.reference)
        compared.append(_against(one, reference, found, runs, libraries, progress, sweep.output))
    return tuple(compared)


def _measured(
    combination: Combination, run: RecordedRun | None, libraries: Sequence[NodeLibrary], error: str
) -> Measured:
    if run is None:
        return Measured(combination, "failed" if error else "not run", error=error)
    record = run.record
    if record.status != "done":
        return Measured(combination, record.status, error=record.error or error)
    # Loops in loops are part of the outer ones, whose rows come with the sum of what stands in them.
    loops = [row for row in record.nodes if row.type == "loop"]
    outer = [row for row in loops if not any(row.name.startswith(f"{other.name}.") for other in loops)]
    turns = sum(step.loop in {row.name for row in outer} for step in record.steps)
    # A call that no turn changes runs before the loop, and may be stored though the loop is not.
    inside = [row for row in record.nodes if any(row.name.startswith(f"{loop.name}.") for loop in outer)]
    reused = any(not row.calls for row in outer) or any(row.reused and row.calls for row in inside)
    share = next((s for each in libraries if (s := each.computed_share(run.plain)) is not None), 1.0)
    return Measured(
        combination,
        record.status,
        sum(row.seconds for row in outer) if outer and not reused else None,
        record.seconds,
        share * turns if turns and not reused else None,
        turns,
        reused,
        outputs=record.outputs,
    )


def _against(
    one: Measured,
    reference: Combination | None,
    found: dict[int, Measured],
    runs: dict[int, RecordedRun],
    libraries: Sequence[NodeLibrary],
    progress: Progress,
    output: str | None,
) -> Measured:
    """A run with its numbers against the reference's."""
    if reference is None or one.status != "done":
        return one
    before = found[reference.number]
    if before.status != "done":
        return one
    if reference.number == one.combination.number:
        return replace(one, reference=reference.number, alike=Alike(math.inf, 1.0), share=1.0)
    first, second = (
        ComparedRun(run.name, run.folder, run.record, None)
        for run in (runs[reference.number], runs[one.combination.number])
    )
    pairs = output_pairs(first, second, libraries, progress, output)
    mine, theirs = one.compared_seconds, before.compared_seconds
    share = mine / theirs if mine is not None and theirs else None
    return replace(one, reference=reference.number, alike=_alike(pairs), share=share)


def _alike(pairs: Sequence[OutputPair]) -> Alike:
    psnr, ssim, problems = [], [], []
    for pair in pairs:
        if pair.likeness is not None:
            psnr += [pair.likeness.psnr] if pair.likeness.psnr is not None else []
            ssim += [pair.likeness.ssim] if pair.likeness.ssim is not None else []
            problems += [f"{pair.name}: {pair.likeness.problem}"] if pair.likeness.problem else []
        elif pair.equal and pair.before is not None:
            psnr.append(math.inf)
            ssim.append(1.0)
        elif pair.problem:
            problems.append(f"{pair.name}: {pair.problem}")
    return Alike(min(psnr, default=None), min(ssim, default=None), "; ".join(problems))


def finite(value: float | None) -> float | None:
    """A number for JSON, which has no infinity."""
    return value if value is not None and math.isfinite(value) else None
