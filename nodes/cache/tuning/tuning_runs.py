"""The runs of `sgd tune`: measure velocities and gains, and the fidelity of plans."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from statistics import mean, median, stdev
from typing import Any

import numpy as np

from ....graph.contract.errors import NodeError
from ....graph.contract.library_command import WorkflowFile, WorkflowPart
from .finished_runs import FinishedRuns
from .linear_predictor import Measurement
from .step_plan import StepPlan
from .tolerance_bound import lower_bound
from .trajectory import DECODE, STEP, Trajectory, psnr
from .tuned_table import Fidelity

PROBES = 13
"""Steps at which the growth of errors is measured; the others are interpolated over the noise level."""

PROBED = 2
"""Prompts with which it is measured."""


class OutOfTime(Exception):
    """The budget is spent."""


class TuningRuns:
    """Runs the denoising of a workflow, one prompt at a time.

    Args:
        workflow: The workflow.
        values: For a prompt, the values of inputs.
        options: Further values for `Run.options`.
        ends: The time (`time.monotonic`) at which no further run begins; None for no limit.

    Attributes:
        references: For a prompt, the run that computes every step.
        ran: Called after each run, with its seconds.
    """

    def __init__(
        self,
        workflow: WorkflowFile,
        values: Mapping[str, Mapping[str, Any]],
        options: Mapping[str, Any],
        ends: float | None,
    ) -> None:
        self.workflow, self.values, self.options, self.ends = workflow, values, options, ends
        self.references: dict[str, Trajectory] = {}
        self.parts: dict[tuple[str, bool], WorkflowPart] = {}
        self.ran: Callable[[float], None] = lambda seconds: None

    def part(self, prompt: str, decode: bool) -> WorkflowPart:
        """The part of the workflow that runs for a prompt. It is compiled once.

        Raises:
            NodeError: If the workflow decodes nothing, or has no denoise loop.
        """
        wanted = DECODE if decode else STEP
        if (prompt, decode) in self.parts:
            return self.parts[prompt, decode]
        part = self.workflow.part({wanted}, self.values[prompt])
        if part is None:
            raise NodeError(
                f"{self.workflow.file} has no {wanted} that would run", help="tune a workflow with a denoise loop"
            )
        self.parts[prompt, decode] = part
        return part

    def run(self, prompt: str, plan: StepPlan, decode: bool) -> Trajectory:
        """Run the workflow for a prompt with a plan.

        Raises:
            OutOfTime: If the budget is spent.
            NodeError: If the workflow is not one that can be tuned.
            CommandEnded: If the run failed.
        """
        if self.ends is not None and time.monotonic() > self.ends:
            raise OutOfTime
        began = time.monotonic()
        seen = Trajectory(keeps_velocities=not decode)
        text = "no table was written; the same command goes on from here"
        self.part(prompt, decode).run(seen, {**self.options, "tune": asdict(plan)}, unfinished=text)
        seen.check()
        self.ran(time.monotonic() - began)
        return seen

    def reference(self, prompt: str, steps: int, decode: bool) -> Trajectory:
        """The run that computes every step."""
        found = self.references.get(prompt)
        if found is None or (decode and not found.frames):
            found = self.references[prompt] = self.run(prompt, StepPlan("1" * steps), decode)
        return found

    def gain(self, prompt: str, step: int, steps: int) -> float:
        """The factor by which an error in the latents before a step has grown at the end.

        The step before it reuses the velocity of its own predecessor, as a gate would.
        """
        reference = self.reference(prompt, steps, decode=False)
        mask = "".join("0" if at == step - 1 else "1" for at in range(steps))
        made = self.run(prompt, StepPlan(mask, {step - 1: (1.0,)}), decode=False)
        held, own = reference.velocities[step - 2], reference.velocities[step - 1]
        error = abs(reference.deltas[step - 1]) * float((held - own).norm())
        assert made.latents is not None, "checked after each run"
        assert reference.latents is not None, "checked after each run"
        return float((made.latents - reference.latents).norm()) / error if error else 1.0

    def fidelity(self, prompt: str, plan: StepPlan) -> float:
        """PSNR in dB of the decoded clip of a plan against that of every step."""
        return psnr(self.run(prompt, plan, decode=True), self.reference(prompt, len(plan.mask), decode=True))


def probes(steps: int) -> list[int]:
    """The steps before which an error is made: from the third on, since the second needs two velocities."""
    return sorted({round(at) for at in np.linspace(2, steps - 1, min(PROBES, steps - 2))})


def measurement(finished: FinishedRuns, sigmas: Sequence[float], deltas: Sequence[float]) -> Measurement:
    """Put the measurements of all prompts together."""
    gram = np.mean([np.array(found) for found in finished.grams.values()], axis=0)
    at = sorted(int(step) for step in finished.gains)
    rms = [float(np.sqrt(np.mean(np.square(list(finished.gains[str(step)].values()))))) for step in at]
    # Noise levels fall from step to step, and `interp` wants them ascending. The final latents have the gain 1.
    levels = [0.0, *(sigmas[step] for step in reversed(at))]
    gains = np.interp([*sigmas, 0.0], levels, [1.0, *reversed(rms)])
    return Measurement(gram, np.array(deltas), gains)


def summary(found: Mapping[str, float]) -> Fidelity:
    """The fidelity of a plan, from the PSNR of each prompt."""
    values = list(found.values())
    return Fidelity(
        worst=min(values),
        median=median(values),
        mean=mean(values),
        deviation=stdev(values),
        bound=lower_bound(values),
        clips=len(values),
    )
