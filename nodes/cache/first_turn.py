"""Find the place of a gate or a measurement, from the first call in which it works. Torch-free at import."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ...graph.contract.diagnostics import Diagnostic
from ...graph.contract.errors import NodeError
from ...graph.contract.workflow_folders import bundled_name
from ..support.input_files import shown
from .gate import Signal
from .gate_place import Place
from .loop_turn import Turn

if TYPE_CHECKING:
    from .calibration.measure import Meter
    from .engine.gated_component import GatedComponent

COMPILED_WHOLE = Diagnostic(
    "unsupported",
    "a gate cannot reach the blocks of a transformer that is compiled as a whole",
    "gate",
    help="set `region: blocks` of model.compile",
)
NO_TIMESTEPS = Diagnostic(
    "unsupported",
    "the steps of this schedule do not hold the timesteps of the whole schedule",
    "step",
    help="make the schedule with schedule.make",
)


def place_of(turn: Turn, table: str | None) -> Place:
    """Collect the facts about the place where a gate works.

    Args:
        turn: The first call in which it works.
        table: Path of the gate's calibration table, if it has one.

    Raises:
        NodeError: If no gate can work there, or the table's weight files are damaged.
    """
    _reachable(turn)
    model, size, run = turn.model, turn.size, turn.run
    weights = model.weights
    parts = [part for part in ("transformer", "transformer_2") if part in model.parts()]
    configs = {part: weights.config(part) for part in ("model_index", *parts)}
    placed = model.offload("transformer")
    place = Place(
        model.family,
        configs,
        weights.repository.source,
        len(turn.window),
        turn.component,
        (size.width, size.height),
        turn.image,
        group=placed.blocks if placed is not None and placed.granularity == "blocks" else 1,
    )
    if table is None:
        return place
    from . import table_use

    place = replace(place, use=table_use.of_model(model, turn.step, turn.window, turn.branches, run))
    if place.use.weights is None:
        reason = "the weights are random" if table_use.random(model, run) else "the weight files are not on this disk"
        run.warn(f"sgd cannot verify that {shown(table)} was made for these weights: {reason}")
    return place


def component_of(turn: Turn, signal: Signal) -> GatedComponent:
    """Describe the component that a gate controls.

    Args:
        turn: The first call in which the gate works.
        signal: The signal that the gate compares.

    Raises:
        NodeError: If the signal needs timesteps that the schedule does not name.
    """
    from .engine.gated_component import GatedComponent

    step, branches, window = turn.step, turn.branches, turn.window

    def active(branch: str) -> list[int]:
        steps = branches.active_steps(branch, step.count)
        return [n for n, index in enumerate(window) if index in steps]

    distances = None
    if signal in ("time", "time_projection"):
        if not step.schedule:
            raise NodeError(NO_TIMESTEPS)
        distances = _time_distances(signal, turn)
    return GatedComponent(
        turn.transformer,
        turn.model.family,
        len(window),
        active,
        distances,
        trial=turn.run.planning,
        parts=turn.parts,
    )


def meter(turn: Turn) -> Meter:
    """Make a meter for the model's transformer, and report the facts that a table needs.

    Args:
        turn: The first step that is measured.

    Raises:
        NodeError: If the model cannot be measured: its weights are random, or its blocks or timesteps cannot be read.
    """
    from .calibration.measure import Meter

    model, window = turn.model, turn.window
    report_facts(turn)
    signals: tuple[Signal, ...] = ("time", "time_projection") if model.family.time_modules else ()
    distances: dict[str, Callable[[Sequence[tuple[int, int]]], list[float]]] = {}
    for signal in signals:
        found = _time_distances(signal, turn)
        assert found is not None, "the component is in memory"
        distances[signal] = found
    return Meter(turn.transformer, model.family, turn.component, len(window), distances)


def report_facts(turn: Turn) -> None:
    """Report the facts about a model and its schedule that a table needs, as the event `measured`.

    Raises:
        NodeError: If the model cannot be measured: its weights are random, or its blocks or timesteps cannot be read.
    """
    from . import table_use

    model, step, window, run = turn.model, turn.step, turn.window, turn.run
    if table_use.random(model, run):
        raise NodeError("a model with random weights cannot be measured", help="measure a model with trained weights")
    _reachable(turn)
    if not step.schedule:
        raise NodeError(NO_TIMESTEPS)
    component, weights = turn.component, model.weights
    run.event(
        "measured",
        use=asdict(table_use.of_model(model, step, window, None, run)),
        schedule=step.schedule,
        dtype=weights.dtype_name(component),
        size=[turn.size.width, turn.size.height, turn.size.frames],
        model={
            "source": bundled_name(Path(weights.repository.source)) or weights.repository.source,
            "commit": weights.repository.commit,
            "family": model.family.name,
        },
        scale=turn.branches.scale if turn.branches.guided else turn.branches.neutral,
    )


def _reachable(turn: Turn) -> None:
    for transform in turn.model.transforms:
        if getattr(transform, "region", None) == "whole" and transform.component == turn.component:
            raise NodeError(COMPILED_WHOLE)


def _time_distances(signal: Signal, turn: Turn) -> Callable[[Sequence[tuple[int, int]]], list[float]] | None:
    """Compute the changes of the timestep's embedding; None if a plan does not have the embedding's weights."""
    import torch

    from .engine.signals import changes

    projected = signal == "time_projection"
    model, step, run = turn.model, turn.step, turn.run
    device, holder = step.value.device, turn.transformer
    if run.planning:
        from ..models.repository import peek

        names = model.family.time_modules if projected else model.family.time_modules[:-1]
        holder = peek.submodules(model, "transformer", turn.transformer, names, run)
        device = torch.device("cpu")
        if holder is None:
            return None
    times = torch.tensor([step.schedule[index] for index in turn.window], device=device).to(step.value.dtype)
    rows = model.family.time_signal(holder, times, projected)
    return lambda pairs: changes(rows, pairs)
