"""A gate, or a measurement, at the first step where it is at work: what the model and the loop say to it.

Torch-free at import.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from ...graph.contract.node import NodeError, Run
from ..models.model import Model
from ..values import Branches, Size, Step
from .calibration.table import shown
from .gate import Gate, Signal
from .place import GateProblem, Place
from .resolved_gate import resolve

if TYPE_CHECKING:
    from .cache_dit.library_loop import LibraryEngine
    from .calibration.measure import Meter
    from .engine.engine import Engine

    Working = Engine | LibraryEngine


def engine(
    gate: Gate,
    model: Model,
    transformer: Any,
    step: Step,
    branches: Branches,
    window: tuple[int, ...],
    size: Size,
    image: bool,
    run: Run,
) -> Working:
    """What computes or reuses on the model's transformer, as a gate says.

    Args:
        gate: The gate as it was written.
        model: The model.
        transformer: Its component.
        step: The first step at which the gate is at work.
        branches: Which guidance branches run.
        window: The steps of the schedule at which the model is in use.
        size: Of what is made.
        image: Whether the model is given an image.
        run: Told of what cannot be compared.

    Raises:
        NodeError: If the gate cannot work with this model or schedule.
    """
    from .cache_dit.library_loop import LibraryEngine
    from .engine.engine import Engine

    _reachable(model)
    place = _place(model, len(window), size, image)
    if gate.table is not None:
        from . import table_use

        place = replace(place, use=table_use.of_model(model, step, window, branches, run))
        if place.use.weights is None:
            reason = "they are random" if table_use.random(model, run) else "they are not on this disk"
            run.warn(f"whether {shown(gate.table)} was made for these weights cannot be told: {reason}")
    try:
        resolved = resolve(gate, place)
    except GateProblem as problem:
        message = f"gate {gate.name}: {problem}"
        if len(window) < step.count:
            message += f" ({len(window)} of {step.count} steps are those of {place.component})"
        raise NodeError(message, help=problem.help) from problem
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


def meter(model: Model, transformer: Any, step: Step, window: tuple[int, ...], size: Size, run: Run) -> Meter:
    """What measures the model's transformer; the parameters are those of `engine`.

    Raises:
        NodeError: If what is measured would say nothing of the model.
    """
    from . import table_use
    from .calibration.measure import Meter

    if table_use.random(model, run):
        raise NodeError("random weights say nothing of the model", help="calibrate with the real ones")
    _reachable(model)
    if not step.schedule:
        raise NodeError("the steps of this schedule do not name its timesteps", help="make it with schedule.make")
    component, weights = model.name("transformer"), model.weights
    run.event(
        "measured",
        use=asdict(table_use.of_model(model, step, window, None, run)),
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


def _place(model: Model, steps: int, size: Size, image: bool) -> Place:
    weights = model.weights
    parts = [part for part in ("transformer", "transformer_2") if part in model.parts()]
    configs = {part: weights.config(part) for part in ("model_index", *parts)}
    component = model.name("transformer")
    source = weights.repository.source
    placed = model.offload("transformer")
    group = placed.blocks if placed is not None and placed.granularity == "blocks" else 1
    return Place(model.family, configs, source, steps, component, (size.width, size.height), image, group=group)


def _reachable(model: Model) -> None:
    for transform in model.transforms:
        if getattr(transform, "region", None) == "whole" and transform.component == model.name("transformer"):
            raise NodeError(
                "a gate cannot reach the blocks of a transformer that is compiled whole",
                help="set `region: blocks` of model.compile",
            )


def _time_distances(
    gate: Gate, model: Model, transformer: Any, step: Step, window: tuple[int, ...], run: Run
) -> Callable[[Sequence[tuple[int, int]]], list[float]] | None:
    """How to measure the changes of the timestep's embedding; None where its weights are not at hand while planning."""
    import torch

    from .engine.signals import changes

    projected = gate.signal == "time_projection"
    device, holder = step.value.device, transformer
    if run.planning:
        from ..models.repository import peek

        names = model.family.time_modules if projected else model.family.time_modules[:-1]
        holder = peek.submodules(model, "transformer", transformer, names, run)
        device = torch.device("cpu")
        if holder is None:
            return None
    times = torch.tensor([step.schedule[index] for index in window], device=device).to(step.value.dtype)
    rows = model.family.time_signal(holder, times, projected)
    return lambda pairs: changes(rows, pairs)
