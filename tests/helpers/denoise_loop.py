"""The loop of a workflow without its executor: cut after any step, with states that go through a file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from sgd.graph.contract.node import State
from sgd.graph.resume import snapshot_file
from sgd.graph.resume.snapshot_file import Snapshot
from sgd.graph.resume.value_codec import Decoder, Encoder
from sgd.nodes import cfg, denoiser, schedule
from sgd.nodes.cache.gate import Gate
from sgd.nodes.cache.state import GateState
from sgd.nodes.cfg import GuiderState
from sgd.nodes.models.model import Model
from sgd.nodes.schedule import SchedulerState
from sgd.nodes.support.tensor_storage import TensorStorage
from sgd.nodes.values import Latents

from helpers.direct import DirectRun
from helpers.ours import Pair

STEPS = 8
STORAGES = [TensorStorage("cpu")]


def through_a_file(value: Any, file: Path) -> Any:
    """A value that was written to a snapshot and read again."""
    encoder = Encoder(STORAGES, file.parent)
    entry = encoder.entry(value)
    arrays = [(0, storage.stored(array)) for storage, array in encoder.arrays]
    snapshot_file.write(Snapshot({"entry": entry, "objects": encoder.objects}, arrays), file)
    found = snapshot_file.read(file)
    return Decoder(found.content["objects"], found.arrays, STORAGES, file.parent, {"sgd"}).value(found.content["entry"])


@dataclass(frozen=True)
class Case:
    """A run: its gate, the solver, options of `cfg.split`, several clips, and whether two experts share the steps."""

    gate: Callable[[str], Gate] | None = None
    scheduler: str = "auto"
    split: dict[str, Any] = field(default_factory=dict)
    clips: int = 1
    experts: bool = False


@dataclass
class Loop:
    """The loop of a workflow, from a step on; `states` are those of the denoiser, the guider and the scheduler."""

    pair: Pair
    case: Case
    run: DirectRun = field(default_factory=DirectRun)

    def __post_init__(self) -> None:
        split = self.case.split
        prompts = ("a red circle", "a blue square")[: self.case.clips]
        _, self.noise, self.branches = self.pair.prepare(
            steps=STEPS, seed=list(range(self.case.clips)), prompts=prompts, **split
        )
        model: Model = self.pair.model
        self.plan = schedule.make(model, steps=STEPS, scheduler=self.case.scheduler, latents=self.noise)  # type: ignore[arg-type]
        self.gate = self.case.gate(self.pair.family) if self.case.gate is not None else None

    def steps(self, now: Latents, first: int, states: tuple[Any, ...], after: Callable[[Latents], None]) -> Latents:
        gates, guider, scheduler = states
        with torch.no_grad():
            for step in list(self.plan)[first:]:
                model = self.pair.model
                if self.case.experts:  # one transformer that plays both: its steps are counted apart
                    half = range(STEPS // 2) if step.index < STEPS // 2 else range(STEPS // 2, STEPS)
                    model = model.during(half)
                made = denoiser.predict(model, now, step, self.branches, gates, self.run, gate=self.gate)
                now = schedule.step(self.plan, step, now, cfg.merge(made, self.branches, guider), scheduler)
                after(now)
        for state in states:
            state.end()
        return now


def new_states() -> tuple[State, ...]:
    return GateState(), GuiderState(), SchedulerState()
