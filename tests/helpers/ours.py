"""sgd's nodes on the modules of a `gate_pipelines` pipeline: without a gate, latents are equal bit for bit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from sgd.nodes import cfg, latents, schedule, text
from sgd.nodes.cache.gate import Gate
from sgd.nodes.models.model import Model
from sgd.nodes.models.transforms.optimize_transform import Optimize
from sgd.nodes.values import Branches, Latents, Schedule

from helpers import gate_pipelines
from helpers.direct import BOTH, DirectRun, model_of, sample
from helpers.gate_pipelines import NEGATIVE, PROMPT, STEPS, Decisions, Outcome

MAX_LENGTH = {"wan": 16, "hunyuan-video": 64, "flux": 64, "qwen-image": 178, "z-image": 64}
EMBEDDED = {"hunyuan-video": 6.0, "flux": 3.5}


class Pair:
    """A pipeline, and sgd's model with the pipeline's modules."""

    def __init__(self, family: str, folder: Path, layers: int = 6) -> None:
        self.family = family
        made = gate_pipelines.build(family, layers)
        made.save_pretrained(folder)
        self.model: Model = model_of(folder)
        parts = {part: self.model.component(part) for part in self.model.parts() if part != "scheduler"}
        self.pipeline = type(made)(**parts, scheduler=made.scheduler)
        self.pipeline.set_progress_bar_config(disable=True)

    @property
    def one_by_one(self) -> dict[str, Any]:
        """Options of a run in which no call has several rows: an oracle makes one decision for a whole call."""
        return {"scale": None} if gate_pipelines.FAMILIES[self.family].together else {}

    def prepare(
        self,
        *,
        steps: int = STEPS,
        scale: float | None = 5.0,
        seed: int | Sequence[int] = 0,
        size: int = 32,
        prompts: Sequence[str] = (PROMPT,),
        padding: Literal["cut", "keep"] = "keep",
        **split: Any,
    ) -> tuple[Schedule, Latents, Branches]:
        """The schedule, the noise and the branches of a run; a clip for each prompt, with seeds of their own."""
        family = gate_pipelines.FAMILIES[self.family]
        neutral = family.scale[1]
        length = MAX_LENGTH[self.family]
        with torch.no_grad():
            conditioning = text.encode(
                DirectRun(), BOTH, self.model, list(prompts), negative=[NEGATIVE], max_length=length, padding=padding
            )
            seeds = [seed] if isinstance(seed, int) else list(seed)
            frames = family.call.get("num_frames", 1)
            start = latents.noise(self.model, width=size, height=size, frames=frames, seed=seeds, batch=len(prompts))
            plan = schedule.make(self.model, steps=steps, latents=start)
            split.setdefault("embedded", EMBEDDED.get(self.family))
            split.setdefault("batched", family.together)
            branches = cfg.split(conditioning, scale=neutral if scale is None else scale, **split)
        return plan, start, branches

    def run(self, gate: Gate | None = None, *, run: DirectRun | None = None, **options: Any) -> list[torch.Tensor]:
        """Latents after every step."""
        return states(self.model, self.prepare(**options), gate=gate, run=run)

    def rebuilt(self, *more: Any) -> Model:
        """The model with its blocks rebuilt, and with other transforms; its transformer is in memory."""
        value = self.model.transformed(Optimize("transformer", True, ()))
        for transform in more:
            value = value.transformed(transform)
        value.acquire("transformer", DirectRun())
        return value

    def outcome(self, gate: Gate, **options: Any) -> Outcome:
        """Latents, and decisions by branch or, for separate stacks, by (branch, number of the stack)."""
        run = DirectRun()
        states = self.run(gate, run=run, **options)
        return Outcome(states, decisions(run))


def states(model: Model, prepared: tuple[Schedule, Latents, Branches], **options: Any) -> list[torch.Tensor]:
    """Latents after every step of a run that `Pair.prepare` prepared; options as in `direct.sample`."""
    plan, start, branches = prepared
    with torch.no_grad():
        return [state.tensor for state in sample(model, plan, start, branches, **options)]


def decisions(run: DirectRun) -> dict[Any, Decisions]:
    """The decisions that the gates of a run reported; of several clips, by (clip, the other key)."""
    found: dict[Any, list[dict[str, Any]]] = {}
    for kind, data in run.events:
        if kind == "gate":
            key = (data["branch"], data["stack"]) if "stack" in data else data["branch"]
            found.setdefault((data["clip"], key) if "clip" in data else key, []).append(data)
    return {
        key: Decisions(tuple(row["computed"] for row in rows), tuple(row.get("value", row["distance"]) for row in rows))
        for key, rows in found.items()
    }


@contextmanager
def counted(model: Model) -> Iterator[list[int]]:
    """Count the calls of the transformer's blocks: yields a list with this number."""
    calls = [0]

    def hook(*_: Any) -> None:
        calls[0] += 1

    transformer = model.component("transformer")
    names = model.family.blocks.lists
    handles = [block.register_forward_hook(hook) for name in names for block in getattr(transformer, name)]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()
