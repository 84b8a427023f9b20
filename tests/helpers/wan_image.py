"""Clips from a first frame, made by direct calls of nodes and by diffusers' pipeline."""

from __future__ import annotations

from typing import Any

import numpy
import torch
from sgd.nodes import cfg, image_condition, latents, schedule, text, vae
from sgd.nodes.cfg import GuiderState
from sgd.nodes.models.nodes.model_expert import expert
from sgd.nodes.schedule import SchedulerState
from sgd.nodes.support.pixels import from_bytes
from sgd.nodes.values import Frames

from helpers import direct
from helpers.direct import BOTH, DirectRun, Result
from helpers.peer import PROMPTS, SCHEDULERS


def frames_of(picture: Any) -> Frames:
    return Frames(from_bytes(numpy.asarray(picture))[None, None])


def generate(
    model: Any,
    prompts: list[str],
    image: Any = None,
    *,
    last: Any = None,
    width: int = 32,
    height: int = 32,
    frames: int = 9,
    scale: float = 5.0,
    scale_below: float | None = None,
    boundary: float = 0.0,
    steps: int = 4,
    seed: int = 0,
    scheduler: str = "auto",
    max_length: int = 512,
    **split: Any,
) -> Result:
    """The whole workflow of image to video (or text to video), with two experts if the model has them."""
    below = expert(model, "transformer_2") if "transformer_2" in model.parts() else model
    made_of = {"width": width, "height": height, "frames": frames}
    with torch.no_grad():
        texts = text.encode(DirectRun(), BOTH, model, prompts, negative=["dark"], max_length=max_length)
        condition = None
        if image is not None:
            final = None if last is None else frames_of(last)
            condition = image_condition.encode(DirectRun(), model, frames_of(image), last=final, **made_of)
        now = latents.noise(model, batch=len(prompts), seed=[seed], **made_of)
        plan = schedule.make(model, steps=steps, scheduler=scheduler)
        solver, guider, states = SchedulerState(), GuiderState(), []
        for step in plan:
            choice = {"boundary": boundary, "above": scale, "below": scale if scale_below is None else scale_below}
            branches = cfg.split(texts, scale=schedule.choose(step, **choice), **split)
            chosen = schedule.choose(step, boundary=boundary, above=model, below=below)
            predictions = direct.predict(chosen, now, step, branches, image=condition)
            now = schedule.step(plan, step, now, cfg.merge(predictions, branches, guider), solver)
            states.append(now)
        kept = now if condition is None else image_condition.keep(now, condition)
        return Result(states, vae.decode(model, kept))


def pipeline_of(cls: Any, model: Any, scheduler: str = "auto", **config: Any) -> Any:
    """A pipeline of diffusers on the same modules."""
    modules = {name: model.component(name) for name in model.parts() if name != "scheduler"}
    made = cls(**modules, scheduler=SCHEDULERS[scheduler](), **config)
    made.set_progress_bar_config(disable=True)
    return made


def reference(
    pipeline: Any, prompts: list[str] = PROMPTS[:1], *, seed: int = 0, scale: float = 5.0, **options: Any
) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Latents after every step and the frames of the pipeline."""
    states = []

    def keep(_: Any, index: int, timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
        states.append(values["latents"].clone())
        return {}

    given = {"width": 32, "height": 32, "num_frames": 9, "num_inference_steps": 4, "max_sequence_length": 512} | options
    made = pipeline(
        prompt=prompts,
        negative_prompt=["dark"] * len(prompts),
        guidance_scale=scale,
        generator=torch.Generator("cpu").manual_seed(seed),
        output_type="np",
        callback_on_step_end=keep,
        **given,
    ).frames
    return states, torch.from_numpy(made)


def assert_same(result: Result, expected: tuple[list[torch.Tensor], torch.Tensor]) -> None:
    states, frames = expected
    assert len(result.states) == len(states)
    for index, (ours, theirs) in enumerate(zip(result.states, states, strict=True)):
        assert torch.equal(ours.tensor, theirs), f"latents differ after step {index}"
    assert torch.equal(result.frames.tensor, frames)
