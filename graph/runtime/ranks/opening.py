"""The facts that rank 0 sends to the others before the first step: start, stored results, and folder of snapshots."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ...compiler.plan import Plan
from ...resume.keeper import Facts, Keeper
from ...resume.position import Positions, Start
from ...resume.snapshot_folder import SnapshotFolder
from ...store.reuse import Reuse
from ..context import Context
from ..reused_steps import ReusedSteps
from ..run_snapshots import storages_of
from ..step_wrap import StepWraps
from .placed_steps import PlacedSteps
from .rank_positions import RankPositions


@dataclass(frozen=True)
class Opening:
    """The facts that rank 0 sends to the other ranks before the first step.

    Attributes:
        start: Where the run begins; None for its first step.
        reuse: The results that come from the store; None without one.
        choices: The choices that the resumed run made before.
        folder: The folder of the run, if snapshots are written there; None if there are none.
        last: The number of the last snapshot.
    """

    start: Start | None = None
    reuse: Reuse | None = None
    choices: Mapping[str, Any] = field(default_factory=dict)
    folder: str | None = None
    last: int = 0

    def for_others(self) -> Opening:
        """The facts without stored results and without finished effects, which other ranks do not run."""
        start = replace(self.start, effects={}) if self.start is not None else None
        return replace(self, start=start, reuse=self.reuse.for_others() if self.reuse is not None else None)


@dataclass(frozen=True)
class OtherRank:
    """A rank other than 0 before its first step.

    Attributes:
        start: Where its run begins.
        wrap: The code around its steps.
        keeper: Writes its parts of snapshots; None if there are none.
        positions: Receives positions; None if there are no snapshots.
    """

    start: Start | None
    wrap: StepWraps
    keeper: Keeper | None
    positions: Positions | None


def opened(plan: Plan, context: Context, placed: PlacedSteps) -> OtherRank:
    """On a rank other than 0: receive the facts of rank 0, and prepare the run."""
    processes = placed.processes
    told: Opening = processes.broadcast(Opening())
    context.earlier_choices = told.choices
    context.choices |= told.choices
    reused = [ReusedSteps(told.reuse, context, processes)] if told.reuse is not None else []
    keeper = positions = None
    if told.folder is not None:
        facts = Facts(record=lambda: dict, choices=dict, warn=context.warn)
        folder, storages = SnapshotFolder(Path(told.folder)), lambda: storages_of(plan, context)
        keeper = Keeper(folder, plan, storages, 0.0, facts, rank=processes.rank)
        positions = RankPositions(keeper, plan, processes, placed.shared_loops, told.last)
    return OtherRank(told.start, StepWraps([*reused, placed]), keeper, positions)
