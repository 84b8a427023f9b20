"""Observe one denoising run: the guided velocity of every step, the final latents, the decoded frames."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ....graph.contract.errors import NodeError
from ....graph.contract.events import CallInfo, Observer
from ...support.lazy import lazy
from ...values import Frames, Latents, Step, Velocity

if TYPE_CHECKING:
    import torch
else:
    torch = lazy("torch")

STEP, DECODE = "schedule.step", "vae.decode"
EQUAL = 100.0
"""PSNR in dB that stands for equal pixels, since JSON has no infinity."""


@dataclass
class Trajectory(Observer):
    """What was seen of a run. Tensors are on the CPU.

    Attributes:
        keeps_velocities: Whether `velocities` is filled.
        velocities: The guided velocity of each step, float32, flat.
        sigmas: The noise level before each step.
        latents: The latents after the last step, float32, flat.
        frames: The decoded frames of each decode.
        facts: The facts about each transformer that a table needs.
        calls: Paths of the nodes that took a step.
    """

    keeps_velocities: bool = True
    velocities: list[torch.Tensor] = field(default_factory=list)
    sigmas: list[float] = field(default_factory=list)
    latents: torch.Tensor | None = None
    frames: list[torch.Tensor] = field(default_factory=list)
    facts: list[Mapping[str, Any]] = field(default_factory=list)
    calls: set[str] = field(default_factory=set)

    def event(self, call: CallInfo | None, kind: str, data: Mapping[str, Any]) -> None:
        if kind == "measured":
            self.facts.append(dict(data))

    def node_started(self, call: CallInfo, arguments: Mapping[str, Any]) -> None:
        if call.type.name != STEP:
            return
        step, velocity = arguments["step"], arguments["velocity"]
        assert isinstance(step, Step), "a parameter of schedule.step"
        assert isinstance(velocity, Velocity), "a parameter of schedule.step"
        self.calls.add(call.id)
        if self.keeps_velocities:
            self.velocities.append(flat(velocity.tensor))
        self.sigmas.append(step.sigma)

    def node_finished(self, call: CallInfo, seconds: float, outputs: Mapping[str, Any]) -> None:
        for value in outputs.values():
            if call.type.name == STEP and isinstance(value, Latents):
                self.latents = flat(value.tensor)
            elif call.type.name == DECODE and isinstance(value, Frames):
                self.frames.append(value.tensor.detach().float().cpu())

    def check(self) -> None:
        """Check that one loop with one transformer ran.

        Raises:
            NodeError: If nothing was denoised, or several loops or transformers took part.
        """
        if not self.sigmas or self.latents is None or not self.facts:
            raise NodeError("nothing was measured: no step was taken", help="tune a workflow with a denoise loop")
        if len(self.calls) > 1 or len(self.facts) > 1:
            found = f"{len(self.calls)} nodes take steps, and {len(self.facts)} loops or transformers denoise"
            raise NodeError(f"a plan is for one denoise loop: {found}", help="tune a workflow with one loop")
        if self.steps < 3:
            raise NodeError(f"{self.steps} steps leave nothing to reuse", help="take 3 steps or more")

    @property
    def steps(self) -> int:
        """The number of steps that were taken."""
        return len(self.sigmas)

    @property
    def deltas(self) -> list[float]:
        """The change of the noise level at each step; the last step ends at 0."""
        return [after - before for before, after in zip(self.sigmas, [*self.sigmas[1:], 0.0], strict=True)]

    def gram(self) -> list[list[float]]:
        """The products of the velocities of every two steps, summed in double precision."""
        rows = torch.stack(self.velocities).double()
        found: list[list[float]] = (rows @ rows.T).tolist()
        return found


def flat(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor as float32 on the CPU [elements]."""
    return tensor.detach().flatten().float().cpu()


def psnr(made: Trajectory, reference: Trajectory) -> float:
    """PSNR in dB of all decoded frames against those of another run; `EQUAL` at most."""
    squared = count = 0.0
    for one, other in zip(made.frames, reference.frames, strict=True):
        squared += float((one.double() - other.double()).square().sum())
        count += one.numel()
    return EQUAL if squared == 0 else min(-10 * math.log10(squared / count), EQUAL)
