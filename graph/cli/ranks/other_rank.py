"""A command in a rank: its GPU, and where a rank other than 0 writes. Such a rank computes its part of `sgd exec`."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...contract.constants import DOES_NOT_FIT, DONE, FAILED, INTERRUPTED
from ...contract.device import shared_cards, take_card
from ...contract.rank_start import RankPlace, rank_place
from ...runtime.clock import Clock
from ...runtime.ranks.run_ranks import RunRanks
from ..command_line import wrong
from ..terminal import say
from .held_errors import heard, hold_errors
from .rank_options import COMMANDS

if TYPE_CHECKING:
    from ...compiler.plan import Plan


def in_place(command: Callable[[RankPlace | None], int]) -> int:
    """Run a command in the place of this process among several, if it has one. It uses only the GPU of its rank.

    A rank other than 0 writes to its log. Without one, as under torchrun, its errors are held back until it ends.

    Args:
        command: Takes the place of this process, None if it is alone. Returns the exit code.
    """
    place = rank_place()
    if place is None:
        return command(None)
    place = replace(place, cards=shared_cards())
    take_card(place)
    if place.rank == 0:
        return command(place)
    sys.stdout.flush()
    if place.starter is None:
        return hold_errors(place, lambda: command(place))
    os.dup2(2, 1)
    return command(place)


def refused(command: str) -> int | None:
    """Refuse a command that runs in one process, in one of several. Returns the exit code; None if it may run."""
    place = rank_place()
    if place is None or place.size == 1 or command in COMMANDS:
        return None
    message = f"sgd {command} runs in one process, and the launcher started {place.size}"
    return in_place(lambda _: wrong(message, "leave out torchrun"))


def run_other_rank(out: Path, plan: Plan, ranks: RunRanks, options: Mapping[str, Any], clock: Clock) -> int:
    """Run this rank's part, in a folder in which it writes no outputs. Returns the exit code."""
    from ...runtime.author_frames import traceback_text
    from ...runtime.failure import does_not_fit
    from ...runtime.ranks.rank_run import run_rank

    error, interrupted, warnings = run_rank(plan, ranks, out, options, clock)
    if ranks.joined is not None:
        heard()
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
