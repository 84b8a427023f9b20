"""Fill a tuned gate with a plan of the table that it names, if the table fits the model and schedule. Torch-free."""

from __future__ import annotations

from dataclasses import replace

from ....graph.contract.diagnostics import Diagnostic
from ....graph.contract.errors import NodeError
from ...support.input_files import shown
from ..calibration.filled_gate import Use, same_model, same_timesteps
from ..calibration.table import unusable
from ..gate import Gate, Mask
from .step_plan import StepPlan
from .tuned_table import AGAIN, read

UNCOVERED = "uncovered"
"""Option of a gate whose table has no plan for the number of steps: the reason, for the warning."""


def planned(gate: Gate, use: Use) -> Gate:
    """Return the gate with the plan of its table that keeps the wanted PSNR. If the table does not cover the number of
    steps, the gate computes every step. If the number is not known, the gate is unchanged.

    Raises:
        NodeError: If the table cannot be read, was made for another model or schedule, or keeps no such PSNR.
    """
    assert gate.table is not None, "a tuned gate has a table"
    table, name = read(gate.table), shown(gate.table)
    if use.component not in (None, table.component):
        raise unusable(f"{name} was made for {table.component}, and not for {use.component}", AGAIN)
    same_model(table.identity, name, use, AGAIN)
    if use.count is None:
        return gate
    schedule = table.schedule(use.count)
    if schedule is None:
        covered = " and ".join(map(str, table.counts))
        reason = f"{name} covers {covered} steps, and the loop takes {use.count}"
        return replace(gate, plan=None, mask=Mask(digits="1" * use.count), options={**gate.options, UNCOVERED: reason})
    same_timesteps(schedule.timesteps, name, use, AGAIN)
    wanted = float(gate.options["psnr"])
    plan = schedule.cheapest(wanted)
    if plan is None:
        message = f"no plan of {name} keeps {wanted:g} dB; the best keeps {schedule.best:.4g}"
        help = f"ask for at most {schedule.best:.4g} dB, or tune again: `sgd tune FILE --psnr {wanted:g}`"
        raise NodeError(Diagnostic("bad-value", message, "psnr", help=help))
    return with_plan(gate, plan.as_step_plan())


def with_plan(gate: Gate, plan: StepPlan) -> Gate:
    """The gate that follows a plan. With an empty mask it computes every step of a schedule of any length."""
    return replace(gate, plan=plan, mask=Mask(digits=plan.mask) if plan.mask else Mask(every=1))
