"""Node functions called directly, without a workflow file: the loop of a workflow written in Python."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch
from sgd.graph.contract.node import Run, Wanted
from sgd.nodes import cfg, denoiser, latents, schedule, text, vae
from sgd.nodes.cache.gate import Gate
from sgd.nodes.cache.state import GateState
from sgd.nodes.cfg import GuiderState
from sgd.nodes.families import by_pipeline
from sgd.nodes.models.memory.weights import Weights
from sgd.nodes.models.model import Model
from sgd.nodes.models.repository.repository import find
from sgd.nodes.schedule import SchedulerState
from sgd.nodes.values import Branches, Conditioning, Frames, Latents, Predictions, Schedule

BOTH = Wanted({"positive", "negative"})


class DirectRun(Run):
    """A run that keeps the warnings, details and events of nodes, and writes into one folder."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder
        self.warnings: list[str] = []
        self.details: dict[str, Any] = {}
        self.events: list[tuple[str, dict[str, Any]]] = []

    def output(self, path: Path | str) -> Path:
        assert self.folder is not None
        target = self.folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        return target

    def warn(self, message: str, parameter: str | None = None) -> None:
        self.warnings.append(message)

    def detail(self, **values: Any) -> None:
        self.details |= values

    def event(self, kind: str, **data: Any) -> None:
        self.events.append((kind, data))


def predict(model: Model, now: Latents, step: Any, branches: Branches, **options: Any) -> Predictions:
    """One evaluation of the denoiser with a new state."""
    state, run = GateState(), DirectRun()
    try:
        return denoiser.predict(model, now, step, branches, state, run, **options)
    finally:
        state.end()


def model_of(
    folder: Path, *parts: str, run: Run | None = None, kind: str = "real", device: str = "cpu", **dtypes: str
) -> Model:
    """The model in a folder, with all components in memory, or only those in `parts`.

    Components are float32, except those with another dtype in `dtypes`.
    """
    repository = find(str(folder))
    assert repository is not None
    family = by_pipeline(repository.pipeline)
    assert family is not None
    model = Model(Weights(repository, "float32", device, dtypes, kind=kind), family)
    for part in parts or repository.components:
        model.acquire(part, run or DirectRun())
    return model


def sample(
    model: Model,
    plan: Schedule,
    start: Latents,
    branches: Branches,
    *,
    model_below: Model | None = None,
    boundary: float = 0.0,
    gate: Gate | None = None,
    gate_below: Gate | None = None,
    run: Run | None = None,
    image: Any = None,
) -> list[Latents]:
    """Denoise with new states, as in one run of a loop, and return the latents after every step."""
    scheduler, guider, gates = SchedulerState(), GuiderState(), GateState()
    run = run or DirectRun()
    states, now = [], start
    for step in plan:
        expert = schedule.choose(step, boundary=boundary, above=model, below=model_below or model)
        chosen = schedule.choose(step, boundary=boundary, above=gate, below=gate_below or gate)
        predictions = denoiser.predict(expert, now, step, branches, gates, run, image=image, gate=chosen)
        velocity = cfg.merge(predictions, branches, guider)
        now = schedule.step(plan, step, now, velocity, scheduler)
        states.append(now)
    for state in (gates, guider, scheduler):
        state.end()
    return states


class Result(NamedTuple):
    """Latents after every step, and the frames."""

    states: list[Latents]
    frames: Frames


def generate(
    model: Model,
    prompt: list[str],
    *,
    negative: str = "",
    width: int = 32,
    height: int = 32,
    frames: int = 9,
    batch: int | None = None,
    seed: list[int] | None = None,
    steps: int = 4,
    scheduler: str = "auto",
    scale: float = 5.0,
    max_length: int = 16,
    model_below: Model | None = None,
    boundary: float = 0.0,
    **split: Any,
) -> Result:
    """The whole text-to-video workflow."""
    with torch.no_grad():
        conditioning: Conditioning = text.encode(
            DirectRun(), BOTH, model, prompt, negative=[negative], max_length=max_length
        )
        count = batch or len(prompt)
        start = latents.noise(model, width=width, height=height, frames=frames, batch=count, seed=seed or [0])
        plan = schedule.make(model, steps=steps, scheduler=scheduler)
        branches = cfg.split(conditioning, scale=scale, **split)
        states = sample(model, plan, start, branches, model_below=model_below, boundary=boundary)
        return Result(states, vae.decode(model, states[-1]))
