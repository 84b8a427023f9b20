"""The text-to-image workflow as direct calls of node functions, and reference results of a diffusers pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from sgd.nodes import cfg, latents, schedule, text, vae
from sgd.nodes.models.model import Model
from sgd.nodes.models.nodes.model_load import load
from sgd.nodes.support.cost_meter import runtime

from helpers.direct import BOTH, DirectRun, Result, sample

PROMPTS = ["a red circle", "Rain &amp; wind,  over a   field"]


def generate(
    model: Model,
    prompt: list[str],
    *,
    negative: str = "",
    width: int = 32,
    height: int = 32,
    batch: int | None = None,
    seed: list[int] | None = None,
    steps: int = 3,
    scale: float = 0.0,
    max_length: int = 64,
    scheduler: str = "auto",
    shift: float | None = None,
    dtype: str = "float32",
    run: DirectRun | None = None,
    **split: Any,
) -> Result:
    """Latents after every step, and the frames."""
    with torch.no_grad():
        conditioning = text.encode(run or DirectRun(), BOTH, model, prompt, negative=[negative], max_length=max_length)
        count = batch or len(prompt)
        noise = latents.noise(model, width=width, height=height, batch=count, seed=seed or [0], dtype=dtype)
        plan = schedule.make(model, steps=steps, scheduler=scheduler, shift=shift, latents=noise)
        states = sample(model, plan, noise, cfg.split(conditioning, scale=scale, **split))
        return Result(states, vae.decode(model, states[-1]))


def planned(folder: Path, *arguments: Any, **options: Any) -> Result:
    """`generate` on the meta device, as `sgd plan` runs it."""
    run = DirectRun()
    run.device, run.planning, run.options = "meta", True, {"device": "cpu"}
    model = load(run, str(folder), dtype="float32")
    for part in model.parts():
        model.acquire(part, run)
    with runtime(run):
        return generate(model, *arguments, **options)


def reference(pipeline: Any, prompt: list[str], *, seed: int | list[int] = 0, **options: Any) -> Any:
    """Latents after every step, and the images as frames, of a diffusers pipeline."""
    states = []

    def keep(_: Any, index: int, timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
        states.append(values["latents"].clone())
        return {}

    seeds = seed if isinstance(seed, list) else [seed]
    generators = [torch.Generator("cpu").manual_seed(s) for s in seeds]
    made = pipeline(
        prompt=list(prompt),
        generator=generators if len(generators) > 1 else generators[0],
        output_type="np",
        callback_on_step_end=keep,
        **({"width": 32, "height": 32, "num_inference_steps": 3, "max_sequence_length": 64} | options),
    ).images
    return states, torch.from_numpy(made).unsqueeze(1)


def assert_same(result: Result, expected: Any) -> None:
    states, frames = expected
    assert len(result.states) == len(states)
    for index, (ours, theirs) in enumerate(zip(result.states, states, strict=True)):
        assert ours.tensor.dtype == theirs.dtype
        assert torch.equal(ours.tensor, theirs), f"latents differ after step {index}"
    assert result.frames.tensor.dtype == torch.float32
    assert torch.equal(result.frames.tensor, frames)


def assert_close(result: Result, expected: Any, tolerance: float = 1e-5) -> None:
    states, frames = expected
    for ours, theirs in zip(result.states, states, strict=True):
        assert (ours.tensor - theirs).abs().max() <= tolerance * theirs.abs().max()
    assert (result.frames.tensor - frames).abs().max() <= tolerance


def shapes(result: Result) -> list[Any]:
    tensors = [*(state.tensor for state in result.states), result.frames.tensor]
    return [(tuple(tensor.shape), tensor.dtype) for tensor in tensors]
