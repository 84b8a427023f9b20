"""Fill a gate with the numbers of the calibration table that it names, if the table fits the model. Torch-free."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ...support.input_files import shown
from ..gate import Gate
from .table import AGAIN, Component, Identity, Table, read, unusable

TOLERANCE = 0.05  # of timesteps on a training scale of 1000; a scheduler of another shift differs by whole ones
BRANCHES = ("positive", "negative")


@dataclass(frozen=True)
class Use:
    """The model, schedule and guidance branches that a table is used with. An attribute is None if it is not known.

    Attributes:
        component: Name of the transformer in the model's repository.
        class_name: Class name of the transformer.
        config: `digest` of the transformer's configuration.
        weights: Fingerprint of the transformer's weight files (`nodes/models/repository/fingerprint.py`).
        adapters: Fingerprint and scale of each LoRA of the transformer, in order.
        adapted: Number of LoRAs of the transformer.
        scheduler: Class of the scheduler.
        shift: Its shift, where that does not depend on the size.
        count: Steps of the loop.
        timesteps: Those at which the component is in use.
        branches: The component's steps at which each guidance branch runs.
    """

    component: str | None = None
    class_name: str | None = None
    config: str | None = None
    weights: str | None = None
    adapters: tuple[str, ...] | None = None
    adapted: int | None = None
    scheduler: str | None = None
    shift: float | None = None
    count: int | None = None
    timesteps: tuple[float, ...] | None = None
    branches: Mapping[str, Sequence[int]] | None = None


def filled(gate: Gate, use: Use) -> Gate:
    """Return the gate with the polynomial or the ratios of the table that it names.

    If the component is not known, the gate is unchanged.

    Raises:
        NodeError: If the table cannot be read, was made for another model or schedule, or lacks the gate's numbers.
    """
    assert gate.table is not None, "asked for gates with a table only"
    table, name = read(gate.table), shown(gate.table)
    _same_schedule(table, name, use)
    if use.component is None:
        return gate
    component = table.components.get(use.component)
    if component is None:
        raise unusable(f"{name} was made for {', '.join(table.components)}, and not for {use.component}")
    same_model(component, name, use)
    same_timesteps(component.timesteps, name, use)
    if gate.rule == "polynomial":
        fit = component.polynomials.get(gate.signal)
        if fit is None:
            has = (
                f"its polynomials are for {', '.join(component.polynomials)}"
                if component.polynomials
                else "it has no polynomials"
            )
            raise unusable(f"{name} has no polynomial for the signal {gate.signal}: {has}")
        return replace(gate, coefficients=tuple(fit.coefficients))
    ratios = {branch: _ratios(component, branch, math.nan) for branch in BRANCHES}
    for branch, steps in (use.branches or {}).items():
        _measured(component, name, branch, steps)
        ratios[branch] = _ratios(component, branch, 1.0)
    return replace(gate, ratios=ratios)


def _same_schedule(table: Table, name: str, use: Use) -> None:
    schedule = table.schedule
    if use.count not in (None, schedule.steps):
        raise unusable(f"{name} was made for {schedule.steps} steps, and the loop has {use.count}")
    if use.scheduler not in (None, schedule.scheduler):
        raise unusable(f"{name} was made for {schedule.scheduler}, and the workflow uses {use.scheduler}")
    if use.shift is not None and schedule.shift is not None and abs(use.shift - schedule.shift) > 1e-6:
        raise unusable(f"{name} was made for a shift of {schedule.shift:g}, and the workflow has {use.shift:g}")


def same_model(component: Identity, name: str, use: Use, help: str = AGAIN) -> None:
    """Check that a table was made for the model that it is used with.

    Args:
        component: The transformer of the table.
        name: The table, for the error.
        use: The model that it is used with.
        help: How to make another table.

    Raises:
        NodeError: If a fact that is known of both differs.
    """
    if use.class_name not in (None, component.class_name):
        raise unusable(f"{name} was made for a {component.class_name}, and the model has a {use.class_name}", help)
    if use.config not in (None, component.config):
        raise unusable(f"{name} was made for a {component.class_name} of another configuration", help)
    if use.weights not in (None, component.weights):
        raise unusable(f"{name} was made for other weights of {use.component}", help)
    adapted = len(use.adapters) if use.adapters is not None else use.adapted
    if adapted not in (None, len(component.adapters)):
        raise unusable(f"{name} was made with {len(component.adapters)} LoRAs, and the model has {adapted}", help)
    if use.adapters is not None and list(use.adapters) != component.adapters:
        raise unusable(f"{name} was made with other LoRAs, or at another scale", help)


def same_timesteps(own: Sequence[float], name: str, use: Use, help: str = AGAIN) -> None:
    """Check that a table was made for the timesteps that it is used with.

    Raises:
        NodeError: If they differ.
    """
    if use.timesteps is not None and len(use.timesteps) != len(own):
        message = f"{name} was made for {len(own)} steps of {use.component}, and here it runs at {len(use.timesteps)}"
        raise unusable(message, help)
    for step, (mine, theirs) in enumerate(zip(own, use.timesteps or own, strict=True)):
        if abs(mine - theirs) > TOLERANCE:
            message = f"{name} was made for other timesteps: step {step} has {mine:g} in the table, and {theirs:g} here"
            raise unusable(message, help)


def _measured(component: Component, name: str, branch: str, steps: Sequence[int]) -> None:
    """See that there is a ratio wherever a branch runs after its first step."""
    if branch not in component.branches:
        raise unusable(f"{name} has no ratios for the branch {branch}: the branch was not measured")
    missing = [step for step in steps[1:] if component.branches[branch].ratios[step] is None]
    if missing:
        raise unusable(
            f"{name} has no ratio for step {missing[0]} of the branch {branch}: the branch did not run there"
        )


def _ratios(component: Component, branch: str, otherwise: float) -> tuple[float, ...]:
    """The ratios of a branch.

    `otherwise` is the ratio of a step that was not measured. It is 1 for a step that the branch skips, because the next
    ratio compares with the last step that ran. It is NaN, with which the gate computes, for branches that were not
    expected.
    """
    known = component.branches.get(branch)
    found = known.ratios if known is not None else [None] * len(component.timesteps)
    return tuple(otherwise if ratio is None else ratio for ratio in found)
