"""Collect the facts that a calibration table must fit, from facts before a run or from the model. Torch-free."""

from __future__ import annotations

from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

from ...graph.contract.errors import NodeError
from ...graph.contract.node import Run
from ..models.checkpoints import checkpoint_source
from ..models.checkpoints.checkpoint_source import Checkpoint
from ..models.model import Model
from ..models.repository import fingerprint
from ..value_facts import ModelFacts, ScheduleFacts, TransformFact
from ..values import Branches, Step
from .calibration.filled_gate import Use
from .calibration.table import digest


def of_facts(model: ModelFacts, step: ScheduleFacts) -> Use:
    """Collect the facts from those about a model and its schedule that are known before the run."""
    name, weights = model.repository_name("transformer"), None
    known, config = model != ModelFacts() and not model.chosen, model.configs.get("transformer")
    if model.folder is not None and not model.chosen:
        with suppress(NodeError):  # the run reports damaged files
            weights = fingerprint.of_weights(Path(model.folder) / name, model.variant)
    if name in model.checkpoints and not model.chosen:
        weights = None
        with suppress(NodeError):
            weights = _of_checkpoint(checkpoint_source.find(model.checkpoints[name]))
    return Use(
        component=name if known else None,
        class_name=model.class_name("transformer") or None,
        config=None if config is None else digest(config),
        weights=weights,
        adapted=model.transforms.count(TransformFact("lora", name)) if known else None,
        scheduler=step.scheduler,
        shift=step.shift,
        count=step.steps,
    )


def of_model(model: Model, step: Step, window: tuple[int, ...], branches: Branches | None, run: Run) -> Use:
    """Collect the facts from a model and a step of its loop. The shift is left out, since the timesteps depend on it.

    Args:
        model: The model.
        step: Any step of the loop.
        window: The steps of the schedule at which the model is in use.
        branches: The guidance branches that run; None if the branches do not matter.
        run: The run. With dummy weights, the fingerprint is None.

    Raises:
        NodeError: If weight files are damaged.
    """
    weights, name, known = model.weights, model.name("transformer"), None
    checkpoint = weights.checkpoints.get(name)
    if checkpoint is not None:
        known = None if random(model, run) else _of_checkpoint(checkpoint)
    elif weights.repository.kind != "bundled" and not random(model, run):
        # A plan does without weights, and without the rest of a download that broke off.
        with suppress(NodeError) if run.planning else nullcontext():
            known = fingerprint.of_weights(weights.repository.folder / name, weights.variant)
    loras: list[Any] = [t for t in model.transforms if t.kind == "lora" and t.component == name]
    here = all(lora.file.is_file() for lora in loras)  # a plan may be made before a file is downloaded
    active: dict[str, list[int]] = {}
    if branches is not None:
        for number, index in enumerate(window):
            for branch in branches.active_at(index, step.count):
                active.setdefault(branch, []).append(number)
    return Use(
        component=name,
        class_name=weights.repository.entry(name)[1],
        config=digest(model.config("transformer")),
        weights=known,
        adapters=tuple(f"{fingerprint.of_files([t.file])} x {t.scale:g}" for t in loras) if here else None,
        adapted=len(loras),
        scheduler=step.scheduler or None,
        count=step.count,
        timesteps=tuple(step.schedule[index] for index in window) if step.schedule else None,
        branches=active or None,
    )


def _of_checkpoint(checkpoint: Checkpoint) -> str | None:
    """The fingerprint of a one-file checkpoint; None if it is not on this disk."""
    return None if checkpoint.file is None else fingerprint.of_files([checkpoint.file])


def random(model: Model, run: Run) -> bool:
    """Whether the weights are random (dummy weights), in this run or in the run that is planned."""
    return "dummy" in (model.weights.kind, run.options.get("weights"))
