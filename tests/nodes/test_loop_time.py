"""The time of a step of a denoise loop, with the executor around it, beside diffusers' pipeline. On the CPU."""

from __future__ import annotations

import math
import statistics
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import sgd
import torch
from diffusers import WanPipeline
from sgd.graph.contract.events import LoopInfo, Observer

MODEL = Path(sgd.__file__).parent / "workflows" / "models" / "tiny-wan"
SIZE = {"width": 96, "height": 96}
FRAMES, STEPS, SCALE = 17, 6, 5.0
PAIRS = 16
SURE = 3.73
"""Student's t for 15 degrees of freedom: a one-sided probability of 0.999."""
FILE = f"""
sgd: 1
name: timed
nodes:
  model: {{uses: model.load, with: {{source: {MODEL}, dtype: float32}}}}
  optimized: {{uses: model.optimize, with: {{model: $model, level: exact}}}}
  text: {{uses: text.encode, with: {{model: $optimized, prompt: ["a red circle"], negative: "", max_length: 32}}}}
  noise: {{uses: latents.noise, with: {{model: $optimized, width: 96, height: 96, frames: {FRAMES}, seed: 1}}}}
  schedule: {{uses: schedule.make, with: {{model: $optimized, steps: {STEPS}}}}}
  denoise:
    uses: ./parts/cfg_denoise.yaml
    with: {{model: $optimized, text: $text, latents: $noise, schedule: $schedule, scale: {SCALE}}}
  kept: {{uses: latents.save, with: {{latents: $denoise, path: made.safetensors}}}}
outputs: {{kept: $kept}}
"""


class Turns(Observer):
    """The processor time of this thread at the end of each turn of a loop."""

    def __init__(self) -> None:
        self.moments: list[float] = []

    def turn_finished(self, loop: LoopInfo, index: int, seconds: float) -> None:
        self.moments.append(time.thread_time())


def step(moments: list[float]) -> float:
    """The least time between the ends of two turns."""
    assert len(moments) == STEPS
    return min(later - earlier for earlier, later in pairwise(moments))


@pytest.fixture(scope="module")
def pipeline() -> Any:
    made = WanPipeline.from_pretrained(MODEL, torch_dtype=torch.float32)
    made.set_progress_bar_config(disable=True)
    return made


def theirs(pipeline: Any) -> float:
    moments: list[float] = []

    def note(*_: Any) -> dict[str, Any]:
        moments.append(time.thread_time())
        return {}

    with torch.no_grad():
        pipeline(
            prompt="a red circle", negative_prompt="", **SIZE, num_frames=FRAMES, num_inference_steps=STEPS,
            guidance_scale=SCALE, max_sequence_length=32, output_type="latent", callback_on_step_end=note,
        )  # fmt: skip
    return step(moments)


def ours(plan: Any, folder: Path) -> float:
    turns = Turns()
    result = sgd.run(plan, out=folder, observers=[turns])
    assert result.status == "done", result.error
    return step(turns.moments)


@pytest.mark.slow
def test_the_denoise_loop_takes_no_longer_than_that_of_diffusers(pipeline: Any, tmp_path: Path) -> None:
    """In turns: the share of diffusers' time that a step takes, as a mean of pairs.

    Both do the same work, so the share is near one. Other work on the machine makes pairs differ, and `SURE` of their
    standard errors above one would be an accident in one of a thousand runs.
    """
    file = tmp_path / "timed.yaml"
    (tmp_path / "parts").symlink_to(Path(sgd.__file__).parent / "workflows" / "parts")
    file.write_text(FILE)
    plan, shares = sgd.compile(file), list[float]()
    with sgd.session():
        for turn in range(PAIRS + 1):
            pair = ours(plan, tmp_path / f"out-{turn}"), theirs(pipeline)
            if turn:  # the first pair warms up
                shares.append(math.log(pair[0] / pair[1]))
    error = statistics.stdev(shares) / math.sqrt(PAIRS)
    least = math.exp(statistics.mean(shares) - SURE * error)
    assert least <= 1, f"a step takes at least {least:.3f} of the time of diffusers' step"
