"""diffusers' pipelines, called as a user calls them: the reference for the nodes' results."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import (
    DEISMultistepScheduler,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    UniPCMultistepScheduler,
    WanPipeline,
)

FLOW = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0}
SCHEDULERS = {
    "auto": lambda: UniPCMultistepScheduler(**FLOW),
    "unipc": lambda: UniPCMultistepScheduler(**FLOW),
    "euler": lambda: FlowMatchEulerDiscreteScheduler(shift=3.0),
    "dpm++": lambda: DPMSolverMultistepScheduler(algorithm_type="dpmsolver++", **FLOW),
    "deis": lambda: DEISMultistepScheduler(**FLOW),
}
PROMPTS = ["a red circle moves left", "Rain &amp; wind,  over a   field"]


def pipeline_of(model: Any, scheduler: str = "auto", **parts: Any) -> Any:
    """A WanPipeline on the same modules (copies at other addresses may differ in the last bit)."""
    names = ("tokenizer", "text_encoder", "vae", "transformer")
    made = WanPipeline(**({name: model.component(name) for name in names} | parts), scheduler=SCHEDULERS[scheduler]())
    made.set_progress_bar_config(disable=True)
    return made


def reference(pipeline, prompt, *, negative="", width=32, height=32, frames=9, steps=4, scale=5.0, seed=0, **options):
    """Latents after every step and the frames of the pipeline."""
    states = []

    def keep(_, index, timestep, values):
        states.append(values["latents"].clone())
        return {}

    seeds = seed if isinstance(seed, list) else [seed]
    generators = [torch.Generator("cpu").manual_seed(s) for s in seeds]
    made = pipeline(
        prompt=prompt,
        negative_prompt=[negative] * len(prompt),
        width=width,
        height=height,
        num_frames=frames,
        num_inference_steps=steps,
        guidance_scale=scale,
        generator=generators if len(generators) > 1 else generators[0],
        max_sequence_length=16,
        output_type="np",
        callback_on_step_end=keep,
        **options,
    ).frames
    return states, torch.from_numpy(made)
