"""What a calibration table is compared with: from descriptions before a run, and from the model itself. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

from ...graph.contract.node import NodeError, Run
from ..models.model import Model
from ..models.repository import fingerprint
from ..models.transforms.transform_checks import repository_name
from ..values import Branches, Step
from .calibration.filled_gate import Use
from .calibration.table import digest


def of_descriptions(known: Mapping[str, Any]) -> Use:
    """What the descriptions of `denoiser.predict`'s inputs tell."""
    model, step = known.get("model") or {}, known.get("step") or {}
    name, chosen = repository_name(model, "transformer"), bool(model.get("chosen"))
    config, folder = model.get("configs", {}).get("transformer"), model.get("folder")
    weights = None
    if folder is not None and not chosen:
        with suppress(NodeError):  # of damaged files, which the run reports
            weights = fingerprint.of_weights(Path(folder) / name, model.get("variant"))
    return Use(
        component=name if model and not chosen else None,
        class_name=model.get("components", {}).get(name),
        config=None if config is None else digest(config),
        weights=weights,
        adapted=model.get("transforms", []).count(["lora", name]) if model and not chosen else None,
        scheduler=step.get("scheduler"),
        shift=step.get("shift"),
        count=step.get("steps"),
    )


def of_model(model: Model, step: Step, window: tuple[int, ...], branches: Branches | None, run: Run) -> Use:
    """What a model and a step of its loop tell: all but the shift, which shows in the timesteps.

    Args:
        model: The model.
        step: Any step of the loop.
        window: The steps of the schedule at which the model is in use.
        branches: Which guidance branches run, None if that does not matter.
        run: With dummy weights nothing is known of them.

    Raises:
        NodeError: If weight files are damaged.
    """
    weights, name, known = model.weights, model.name("transformer"), None
    if weights.repository.kind != "bundled" and not random(model, run):
        # A plan does without weights, and without the rest of a download that broke off.
        with suppress(NodeError) if run.planning else nullcontext():
            known = fingerprint.of_weights(weights.repository.folder / name, weights.variant)
    loras: list[Any] = [t for t in model.transforms if t.kind == "lora" and t.component == name]
    active: dict[str, list[int]] = {}
    if branches is not None:
        for number, index in enumerate(window):
            running = branches.active_at(index, step.count)
            for branch in ["+".join(running)] if branches.batched else running:
                active.setdefault(branch, []).append(number)
    return Use(
        component=name,
        class_name=weights.repository.entry(name)[1],
        config=digest(model.config("transformer")),
        weights=known,
        adapters=tuple(f"{fingerprint.of_files([t.file])} x {t.scale:g}" for t in loras),
        adapted=len(loras),
        scheduler=step.scheduler or None,
        count=step.count,
        timesteps=tuple(step.schedule[index] for index in window) if step.schedule else None,
        branches=active or None,
    )


def random(model: Model, run: Run) -> bool:
    """Whether the weights are dummies, or will be in the run that is planned."""
    return "dummy" in (model.weights.kind, run.options.get("weights"))
