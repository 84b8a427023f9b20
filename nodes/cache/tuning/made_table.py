"""Make the table of a tuned gate from the runs of `sgd tune`. Torch-free."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ....graph.contract.errors import NodeError
from . import tuned_table
from .finished_runs import FinishedRuns
from .step_plan import StepPlan
from .tuned_table import KEY, TunedPlan, TunedSchedule, TunedTable
from .tuning_prompts import TuningPrompts
from .tuning_runs import summary

LIBRARIES = ("sgd", "torch", "diffusers")


def versions() -> dict[str, str]:
    """The versions of the packages that compute."""
    return {library: version(library) for library in LIBRARIES}


def made_table(
    facts: Mapping[str, Any],
    prompts: TuningPrompts,
    plans: Iterable[StepPlan],
    finished: FinishedRuns,
) -> TunedTable:
    """The table of one number of steps.

    Args:
        facts: The facts about the transformer, of the event `measured`.
        prompts: The prompts that were measured, and those that plans were tried with.
        plans: The plans; those that were not tried with each prompt are left out.
        finished: The finished runs.
    """
    use = facts["use"]
    schedule = TunedSchedule(
        scheduler=use["scheduler"],
        timesteps=list(use["timesteps"]),
        size=list(facts["size"]),
        scale=facts["scale"],
        measured=digests(prompts.measured),
        chosen=digests(prompts.chosen),
        seeds="one for each clip" if prompts.seeds else "one for all clips",
        made={**versions(), "date": datetime.now(UTC).isoformat(timespec="seconds")},
        plans=[
            tuned_plan(plan, finished.psnr[plan.mask])
            for plan in plans
            if len(finished.psnr.get(plan.mask, {})) == len(prompts.chosen)
        ],
    )
    names = ("class_name", "config", "weights", "adapters")
    identity = {**{name: use[name] for name in names}, "dtype": facts["dtype"]}
    made = {KEY: 1, "model": facts["model"], "component": use["component"], "identity": identity}
    return TunedTable.model_validate({**made, "schedules": [schedule.model_dump()]})


def tuned_plan(plan: StepPlan, found: Mapping[str, float]) -> TunedPlan:
    """A plan with its fidelity, for the table."""
    return TunedPlan.model_validate({**asdict(plan), "psnr": summary(found).model_dump()})


def with_others(table: TunedTable, path: Path) -> tuple[TunedTable, str | None]:
    """Add the schedules of a table that exists, if it is of the same model, for other numbers of steps.

    Plans of the same measurement stay too.

    Returns:
        The table, and what is lost of the table that exists; None if nothing is.
    """
    if not path.exists():
        return table, None
    try:
        old = tuned_table.read(path)
    except NodeError as error:
        return table, f"{path} is replaced: {error}"
    if (old.identity, old.component) != (table.identity, table.component):
        return table, f"{path} is replaced: it was of another model"
    own, lost = table.schedules[0], None
    same = old.schedule(len(own.timesteps))
    if same is not None and _clips(same) == _clips(own):
        masks = {plan.mask for plan in own.plans}
        plans = [*own.plans, *(plan for plan in same.plans if plan.mask not in masks)]
        own = own.model_copy(update={"plans": sorted(plans, key=lambda plan: plan.mask.count("1"))})
    elif same is not None:
        lost = f"the plans of {path} for {len(own.timesteps)} steps are replaced: they had other clips or timesteps"
    others = [schedule for schedule in old.schedules if len(schedule.timesteps) != len(own.timesteps)]
    schedules = sorted([own, *others], key=lambda found: len(found.timesteps))
    return table.model_copy(update={"schedules": schedules}), lost


def _clips(schedule: TunedSchedule) -> tuple[object, ...]:
    """The facts that are equal for plans that were tried on the same clips."""
    return schedule.measured, schedule.chosen, schedule.seeds, schedule.timesteps


def digest(text: str) -> str:
    """A digest of a prompt: the table names no texts."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def digests(texts: Sequence[str]) -> list[str]:
    return [digest(text) for text in texts]
