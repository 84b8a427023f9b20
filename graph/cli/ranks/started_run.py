"""`sgd exec --processes`: start the ranks, watch them, and end with the exit code of their run."""

from __future__ import annotations

import signal
import sys
import time
from argparse import Namespace
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from ...contract import interrupts
from ...contract.constants import DOES_NOT_FIT, FAILED, INTERRUPTED
from ...contract.device import cards, choose
from ...contract.errors import NodeError
from ...contract.processes import Mesh
from ...contract.rank_start import StartedRanks
from ...resume.snapshot_folder import SnapshotFolder
from ...runtime.ranks.rank_fault import Fault, ended, posted
from ...runtime.ranks.run_ranks import rank_library
from ...runtime.ranks.stall import StallJudge
from ...runtime.run import prepare_folder
from ..command_line import wrong
from ..terminal import flush, say
from ..told_ends import resume_command
from .rank_options import too_few_cards

if TYPE_CHECKING:
    from ...compiler.plan import Plan

LOGS = "ranks"
"""The folder in a run's folder with a log of each rank but 0, which writes to the terminal."""

POLL_SECONDS = 0.05
END_SECONDS = 6.0
"""How long rank 0 has to tell of a fault and to write the record; the others end with it."""
INTERRUPT_SECONDS = 4.0
"""How long ranks have to end after an interrupt."""


def run_in_ranks(
    arguments: Namespace, plan: Plan, mesh: Mesh, *, device: str, out: Path | None, overwrite: bool, named: bool
) -> int:
    """Run a workflow in several processes of this host.

    Args:
        arguments: The command line.
        plan: The plan, which each rank compiles again.
        mesh: How the processes are arranged.
        device: The device that is asked for.
        out: The folder of the run; None for a new one.
        overwrite: Replace files that exist.
        named: The command line names the folder.

    Returns:
        The exit code.
    """
    try:
        library = rank_library(plan)
        found = cards(choose(device, plan.libraries))
        if found is not None and found < mesh.size:
            return wrong(too_few_cards(mesh.size, found), f"give --processes {max(found, 1)}")
        judge = StallJudge(mesh.size, time.monotonic())
        folder = prepare_folder(plan, out, overwrite)
        folder.release()  # rank 0 takes it
        command = _command(arguments.command_line, None if named else folder.path)
        with interrupts.held():
            started = library.start_ranks(command, mesh.size, folder.path / LOGS)
            try:
                code = _watched(started, judge)
            finally:
                started.end(0.0)
            if code == INTERRUPTED:
                interrupts.reported()
            elif code in (FAILED, DOES_NOT_FIT):
                if (started.codes()[0] or 0) < 0 and SnapshotFolder(folder.path).has_snapshots():
                    say(f"go on with: {resume_command(folder.path, plan, arguments)}")  # rank 0 could not say so
            else:
                _remove_empty(folder.path / LOGS)
    except NodeError as error:
        return wrong(str(error), error.help)
    flush()
    return code


def _command(words: Sequence[str], out: Path | None) -> list[str]:
    """The command of a rank: that of this process, with the folder of the run if the user did not name it.

    A rank imports modules from the current folder only if this process does, as `python -m sgd` in a checkout does.
    """
    first = sys.path[0] if sys.path else None
    here = first is not None and not sys.flags.safe_path and Path(first or ".").resolve() == Path.cwd()
    words, end = list(words), words.index("--") if "--" in words else len(words)
    if out is not None:
        words[end:end] = ["--out", str(out)]
    return [sys.executable, *([] if here else ["-P"]), "-m", "sgd", *words]


def _watched(started: StartedRanks, judge: StallJudge) -> int:
    """Wait for the end of all ranks. Returns the exit code of the run."""
    fault: Fault | None = None
    while True:
        codes, now = started.codes(), time.monotonic()
        if interrupts.pending():
            started.signal(signal.SIGTERM)
            started.end(INTERRUPT_SECONDS)
            return _interrupted(started.codes())
        if all(code is not None for code in codes.values()):
            break
        judge.read(started.board, now)
        failed = next(((rank, code) for rank, code in codes.items() if code), None)
        fault = posted(started.board)
        if fault is None and failed is not None:
            fault = ended(*failed, judge.place).post(started.board)
        if fault is None and (stalled := judge.stalled(now)) is not None:
            fault = stalled.post(started.board)
        if fault is not None:
            started.end(END_SECONDS)
            break
        time.sleep(POLL_SECONDS)
    return _code(started.codes(), fault or posted(started.board), judge)


def _interrupted(codes: Mapping[int, int | None]) -> int:
    """Tell of an interrupt, unless rank 0 has done so."""
    if codes[0] != INTERRUPTED:
        say("interrupted")
    return INTERRUPTED


def _code(codes: Mapping[int, int | None], fault: Fault | None, judge: StallJudge) -> int:
    """The exit code of the run. Rank 0 has told of its end, unless it was killed."""
    first = codes[0]
    if first is not None and first >= 0:
        for rank, code in codes.items():
            if code and first == 0:
                say(f"warning: {ended(rank, code, judge.place).error()}, when the run was done")
        return first
    if fault is None:
        fault = ended(0, first if first is not None else -int(signal.SIGKILL), judge.place)
    say(f"error: {fault.error()}")
    return DOES_NOT_FIT if fault.memory else FAILED


def _remove_empty(logs: Path) -> None:
    """Remove logs in which nothing stands, after a run that is done."""
    with suppress(OSError):
        for log in logs.glob("*.log"):
            if log.stat().st_size == 0:
                log.unlink()
        logs.rmdir()
