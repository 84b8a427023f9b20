"""What `denoiser.predict` keeps of its gates during one run of a loop, and what it says of them. Torch-free at import.

State belongs to the run of the loop, the predict node, the component of the model and the guidance branch by name.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from math import isfinite
from typing import TYPE_CHECKING, Any

from ...graph.contract.node import Run, State
from ..models.model import Model
from ..values import Branches, Size, Step
from . import begin
from .engine.decide import Decision
from .gate import Gate

if TYPE_CHECKING:
    import torch

    from .cache_dit.library_loop import LibraryEngine, Taken
    from .calibration.measure import Meter, Metered
    from .engine.engine import Engine
    from .engine.stack import Track

    Working = Engine | LibraryEngine

Call = Callable[[Any], "torch.Tensor"]


class GateState(State):
    """The gates of one run of a loop, one for each component that the loop's model had."""

    def __init__(self) -> None:
        self.gates: dict[str, tuple[Gate, tuple[int, ...], Working]] = {}
        self.meters: dict[str, Meter] = {}
        self.run: Run | None = None

    def open(
        self,
        gate: Gate,
        model: Model,
        transformer: Any,
        step: Step,
        branches: Branches,
        size: Size,
        image: bool,
        run: Run,
    ) -> Opened:
        """The gate at work on the model's transformer, at one step.

        Raises:
            NodeError: If the gate cannot work with this model or schedule.
        """
        self.run = run
        component = model.name("transformer")
        held = self.gates.get(component)
        window = tuple(range(step.count)) if model.steps is None else model.steps
        # Equal gates are one: a gate that stands in the loop is made anew at every step.
        if held is None or held[:2] != (gate, window) or held[2].transformer is not transformer:
            self._close(component)
            held = (gate, window, begin.engine(gate, model, transformer, step, branches, window, size, image, run))
            self.gates[component] = held
        return Opened(held[2], gate.name, component, window.index(step.index), step, run)

    def measure(self, model: Model, transformer: Any, step: Step, size: Size, run: Run) -> Metered:
        """The model's transformer at one step, computed and measured; no gate is at work.

        Raises:
            NodeError: If what is measured would say nothing of the model.
        """
        from .calibration.measure import Metered

        component = model.name("transformer")
        window = tuple(range(step.count)) if model.steps is None else model.steps
        if component not in self.meters:
            self.meters[component] = begin.meter(model, transformer, step, window, size, run)
        return Metered(self.meters[component], window.index(step.index), step, run)

    def end(self) -> None:
        for component in list(self.gates):
            self._close(component)

    def _close(self, component: str) -> None:
        """Say what a gate did in all, and forget it."""
        held = self.gates.pop(component, None)
        if held is None:
            return
        gate, _, engine = held
        try:
            if self.run is not None and not self.run.planning:
                _total(gate, engine, component, self.run)
        finally:
            engine.close()


def _total(gate: Gate, engine: Working, component: str, run: Run) -> None:
    """Say what a gate did in all, and why if that was nothing."""
    ended = reused_any = False
    decisions: list[Decision] = []
    found: Mapping[str, Sequence[Track | Taken]] = engine.tracks
    for branch, tracks in found.items():
        for number, track in enumerate(tracks):
            taken = track.taken
            reused = sum(not decision.computed for decision in taken.values())
            run.event(
                "gate_total",
                gate=gate.name,
                method=gate.kind,
                component=component,
                branch=branch,
                stack=number if len(tracks) > 1 else None,
                computed=len(taken) - reused,
                reused=reused,
                ratio=reused / len(taken) if taken else 0.0,
                steps="".join(str(int(taken[index].computed)) for index in sorted(taken)),
            )
            ended = len(taken) == len(engine.indices[branch])
            reused_any = reused_any or bool(reused)
            decisions += taken.values()
    if ended and not reused_any and not engine.gate.off:
        run.warn(_idle(engine.gate, component, decisions))


class Opened:
    """A gate at one step: evaluates branches and reports what was decided."""

    def __init__(self, engine: Working, name: str, component: str, index: int, step: Step, run: Run) -> None:
        self.engine, self.name, self.component = engine, name, component
        self.index, self.step, self.run = index, step, run

    def evaluate(self, names: Sequence[str], given: torch.Tensor, call: Call) -> torch.Tensor:
        """The prediction of a branch, or of several in one batch.

        Args:
            names: The branches.
            given: The latents that are given to the transformer.
            call: Calls the transformer that it is given.
        """
        branch, engine = "+".join(names), self.engine
        made = engine.evaluate(branch, self.index, given, call)
        if self.run.planning:
            self._say(branch)
            return made
        for number, decision in engine.decided(branch, self.index):
            stack = {"stack": number} if len(engine.tracks[branch]) > 1 else {}
            value = {} if decision.value == decision.distance else {"value": decision.value}
            self.run.event(
                "gate",
                gate=self.name,
                component=self.component,
                step=self.step.index,
                branch=branch,
                computed=decision.computed,
                distance=decision.distance,
                threshold=engine.gate.threshold,
                reason=decision.reason,
                **stack,
                **value,
            )
        return made

    def _say(self, branch: str) -> None:
        """Tell the plan what is known of a branch."""
        engine = self.engine
        digits = engine.digits(branch)
        suffix = "" if branch == "positive" else f"_{branch}"
        self.run.detail(**{"gate": engine.gate.kind, f"computed{suffix}": digits})
        share = 1.0 if "?" in digits or engine.gate.kind == "library" else digits.count("1") / len(digits)
        self.run.event("turns", like_first=share)


def _idle(gate: Gate, component: str, decisions: Sequence[Decision]) -> str:
    """Why a gate reused nothing, and what would have changed that."""
    measured = [d.value for d in decisions if d.reason == "rule" and d.value is not None]
    ruled = [value for value in measured if isfinite(value)]
    head = f"the gate {gate.name} ({gate.kind}) reused nothing of {component}"
    if measured and not ruled:
        return f"{head}: no change that it measured is a finite number; something overflows in the model"
    if ruled:
        # A little over the smallest, so that the comparison holds after the number was written down.
        least = max(min(ruled), 0.0) * 1.001
        return f"{head}: the smallest threshold that would have is {least:.4g}, and it is {gate.threshold:g}"
    reasons = sorted({decision.reason for decision in decisions})
    return f"{head}: every step was computed because of {', '.join(reasons)}; {json.dumps(_limits(gate))}"


def _limits(gate: Gate) -> dict[str, Any]:
    limits = gate.limits
    found = {
        "warmup_steps": limits.warmup_steps,
        "max_consecutive": limits.max_consecutive,
        "max_reused": limits.max_reused,
        "threshold": gate.threshold,
    }
    return {name: value for name, value in found.items() if value is not None}
