"""`sgd exec` in a rank other than 0: it computes its part, and writes to its log only."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...contract.constants import DOES_NOT_FIT, DONE, FAILED, INTERRUPTED
from ...contract.device import shared_cards, take_card
from ...contract.rank_start import RankPlace, rank_place
from ...runtime.clock import Clock
from ...runtime.ranks.run_ranks import RunRanks
from ..terminal import say

if TYPE_CHECKING:
    from ...compiler.plan import Plan


def entered() -> RankPlace | None:
    """The place of this process among several; None if it is alone. From now on it uses only the GPU of its rank.

    A rank other than 0 writes to its log from now on.
    """
    place = rank_place()
    if place is not None:
        place = replace(place, cards=shared_cards())
        take_card(place)
        if place.rank:
            _quiet(place)
    return place


def _quiet(place: RankPlace) -> None:
    """Send everything that a rank other than 0 writes to its log; without one, as under torchrun, to nobody.

    The first rank of each other host still writes its errors, since its host may lack a file that the others have.
    """
    sys.stdout.flush()
    if place.starter is not None:
        os.dup2(2, 1)
        return
    nobody = os.open(os.devnull, os.O_WRONLY)
    for stream in (1,) if place.local == 0 else (1, 2):
        os.dup2(nobody, stream)
    os.close(nobody)


def run_other_rank(out: Path, plan: Plan, ranks: RunRanks, options: Mapping[str, Any], clock: Clock) -> int:
    """Run this rank's part, in a folder in which it writes no outputs. Returns the exit code."""
    from ...runtime.author_frames import traceback_text
    from ...runtime.failure import does_not_fit
    from ...runtime.ranks.rank_run import run_rank

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
