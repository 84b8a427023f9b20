"""`sgd exec` in a rank other than 0: it computes its part, and writes to its log only."""

from __future__ import annotations

import os
import sys
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...contract.constants import DOES_NOT_FIT, DONE, FAILED, INTERRUPTED
from ...contract.rank_start import RankPlace
from ...runtime.clock import Clock
from ...runtime.ranks.run_ranks import RunRanks
from ..terminal import say

if TYPE_CHECKING:
    from ...compiler.plan import Plan


def quiet(place: RankPlace) -> None:
    """Send everything that a rank other than 0 writes to its log; without one, as under torchrun, to nobody."""
    sys.stdout.flush()
    if place.starter is not None:
        os.dup2(2, 1)
        return
    nobody = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(nobody, stream)
    os.close(nobody)


def run_other_rank(arguments: Namespace, plan: Plan, ranks: RunRanks, options: Mapping[str, Any], clock: Clock) -> int:
    """Run this rank's part. Returns the exit code."""
    from ...runtime.author_frames import traceback_text
    from ...runtime.failure import does_not_fit
    from ...runtime.ranks.rank_run import run_rank

    out = Path(arguments.out) if arguments.out is not None else Path.cwd()
    error, interrupted, warnings = run_rank(plan, ranks, out, options, clock)
    for warning in warnings:
        say(f"warning: {warning}")
    if interrupted:
        return INTERRUPTED
    if error is None:
        return DONE
    say(f"error: {error}")
    if error.__cause__ is not None:
        say(f"\n{traceback_text(error)}")
    return DOES_NOT_FIT if does_not_fit(error, plan.loaded) else FAILED
