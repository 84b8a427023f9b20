"""What `denoiser.predict` keeps of its gates during one run of a loop, and what it says of them. Torch-free at import.

State belongs to the run of the loop, the predict node, the component of the model and the guidance branch by name.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from ...graph.node import NodeError, Run, State
from ..models.model import Model
from ..values import Branches, Size, Step
from .decide import Decision
from .gate import Gate, Signal
from .resolve import GateProblem, Place, resolve
from .table import shown

if TYPE_CHECKING:
    import torch

    from .engine import Engine
    from .library_engine import LibraryEngine, Taken
    from .measure import Meter, Metered
    from .stack import Track

    Working = Engine | LibraryEngine

Call = Callable[[Any], "torch.Tensor"]


class GateState(State):
    """The gates of one run of a loop, one for each component that the loop's model had."""

    def __init__(self) -> None:
        self.gates: dict[str, tuple[Gate, Working]] = {}
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
        if held is None or held[0] != gate or held[1].transformer is not transformer:
            self._close(component)
            place = _place(model, len(window), size, image)
            held = (gate, _engine(gate, place, model, transformer, step, branches, window, run))
            self.gates[component] = held
        return Opened(held[1], gate.name, component, window.index(step.index), step, run)

    def measure(self, model: Model, transformer: Any, step: Step, size: Size, run: Run) -> Metered:
        """The model's transformer at one step, computed and measured; no gate is at work.

        Raises:
            NodeError: If what is measured would say nothing of the model.
        """
        from .measure import Metered

        component = model.name("transformer")
        window = tuple(range(step.count)) if model.steps is None else model.steps
        if component not in self.meters:
            self.meters[component] = _meter(model, transformer, step, window, size, run)
        return Metered(self.meters[component], window.index(step.index), step, run)

    def end(self) -> None:
        for component in list(self.gates):
            self._close(component)

    def _close(self, component: str) -> None:
        """Say what a gate did in all, and forget it."""
        held = self.gates.pop(component, None)
        if held is None:
            return
        gate, engine = held
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
    if ended and not reused_any:
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


def _place(model: Model, steps: int, size: Size, image: bool) -> Place:
    weights = model.weights
    parts = [part for part in ("transformer", "transformer_2") if part in model.parts()]
    configs = {part: weights.config(part) for part in ("model_index", *parts)}
    component = model.name("transformer")
    source = weights.repository.source
    return Place(model.family, configs, source, steps, component, (size.width, size.height), image)


def _engine(
    gate: Gate,
    place: Place,
    model: Model,
    transformer: Any,
    step: Step,
    branches: Branches,
    window: tuple[int, ...],
    run: Run,
) -> Working:
    from .engine import Engine
    from .library_engine import LibraryEngine

    _reachable(model)
    if gate.table is not None:
        from . import use

        place = replace(place, use=use.of_model(model, step, window, branches, run))
        if place.use.weights is None:
            reason = "they are random" if use.random(model, run) else "they are not on this disk"
            run.warn(f"whether {shown(gate.table)} was made for these weights cannot be told: {reason}")
    try:
        resolved = resolve(gate, place)
    except GateProblem as problem:
        raise NodeError(f"gate {gate.name}: {problem}", help=problem.help) from problem
    if not step.schedule and resolved.signal in ("time", "time_projection"):
        raise NodeError("the steps of this schedule do not name its timesteps", help="make it with schedule.make")

    def active(branch: str) -> list[int]:
        wanted = set(branch.split("+"))
        joined = branches.batched
        found = []
        for number, index in enumerate(window):
            running = branches.active_at(index, step.count)
            if (set(running) == wanted) if joined else wanted <= set(running):
                found.append(number)
        return found

    if resolved.kind == "library":
        separate = not branches.batched and any(len(branches.active_at(i, step.count)) > 1 for i in window)
        if separate and resolved.options.get("enable_separate_cfg") is False:
            message = f"gate {gate.name}: guidance branches are evaluated one by one, each with a state of its own"
            raise NodeError(f"{message}, and `enable_separate_cfg` is false", help="leave it out")
        return LibraryEngine(resolved, transformer, len(window), active, trial=run.planning)
    distances = None
    if resolved.signal in ("time", "time_projection"):
        distances = _time_distances(resolved, model, transformer, step, window, run)
    return Engine(resolved, transformer, model.family, len(window), active, distances, trial=run.planning)


def _reachable(model: Model) -> None:
    for transform in model.transforms:
        if getattr(transform, "region", None) == "whole" and transform.component == model.name("transformer"):
            raise NodeError(
                "a gate cannot reach the blocks of a transformer that is compiled whole",
                help="set `region: blocks` of model.compile",
            )


def _meter(model: Model, transformer: Any, step: Step, window: tuple[int, ...], size: Size, run: Run) -> Meter:
    from . import use
    from .measure import Meter

    if use.random(model, run):
        raise NodeError("random weights say nothing of the model", help="calibrate with the real ones")
    _reachable(model)
    if not step.schedule:
        raise NodeError("the steps of this schedule do not name its timesteps", help="make it with schedule.make")
    component, weights = model.name("transformer"), model.weights
    run.event(
        "measured",
        use=asdict(use.of_model(model, step, window, None, run)),
        schedule=step.schedule,
        dtype=weights.dtype_name(component),
        size=[size.width, size.height, size.frames],
        model={
            "source": weights.repository.source,
            "commit": weights.repository.commit,
            "family": model.family.name,
        },
    )
    signals: tuple[Signal, ...] = ("time", "time_projection") if model.family.time_modules else ()
    distances: dict[str, Callable[[Sequence[tuple[int, int]]], list[float]]] = {}
    for signal in signals:
        found = _time_distances(Gate("measure", signal=signal), model, transformer, step, window, run)
        assert found is not None, "the component is in memory"
        distances[signal] = found
    return Meter(transformer, model.family, component, len(window), distances)


def _time_distances(
    gate: Gate, model: Model, transformer: Any, step: Step, window: tuple[int, ...], run: Run
) -> Callable[[Sequence[tuple[int, int]]], list[float]] | None:
    """How to measure the changes of the timestep's embedding; None where its weights are not at hand while planning."""
    import torch

    from .signals import changes

    projected = gate.signal == "time_projection"
    device, holder = step.value.device, transformer
    if run.planning:
        from ..models import peek

        names = model.family.time_modules if projected else model.family.time_modules[:-1]
        holder = peek.submodules(model, "transformer", transformer, names, run)
        device = torch.device("cpu")
        if holder is None:
            return None
    times = torch.tensor([step.schedule[index] for index in window], device=device).to(step.value.dtype)
    rows = model.family.time_signal(holder, times, projected)
    return lambda pairs: changes(rows, pairs)


def _idle(gate: Gate, component: str, decisions: Sequence[Decision]) -> str:
    """Why a gate reused nothing, and what would have changed that."""
    measured = [d.value for d in decisions if d.reason == "rule" and d.value is not None]
    ruled = [value for value in measured if math.isfinite(value)]
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
    found = {"warmup_steps": limits.warmup_steps, "max_reused": limits.max_reused, "threshold": gate.threshold}
    return {name: value for name, value in found.items() if value is not None}
