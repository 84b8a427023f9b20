"""Helpers for tests of changed models: random adapters for any family, and the difference of two models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from sgd.nodes import cfg, denoiser, schedule
from sgd.nodes.cache.state import GateState
from sgd.nodes.cfg import GuiderState
from sgd.nodes.models.memory.component_views import view
from sgd.nodes.models.model import Model
from sgd.nodes.schedule import SchedulerState

from helpers.direct import DirectRun
from helpers.ours import Pair


def adapters(pipeline: Any, folder: Path, seed: int = 0, rank: int = 4) -> Path:
    """A file of random adapters for the attention of a pipeline's transformer, as the pipeline's class writes it."""
    from diffusers.utils import convert_state_dict_to_diffusers
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict

    trained: Any = view(pipeline.transformer)
    trained.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=["to_q", "to_k", "to_v"]))
    generator = torch.Generator().manual_seed(seed)
    for key, parameter in trained.named_parameters():
        if "lora_" in key:
            parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator)
    layers = convert_state_dict_to_diffusers(get_peft_model_state_dict(trained))
    name = f"adapters-{seed}.safetensors"
    type(pipeline).save_lora_weights(folder, transformer_lora_layers=layers, weight_name=name)
    return folder / name


def difference(
    pair: Pair, expected: Model, made: Model, *, steps: int = 2, run: DirectRun | None = None, **options: Any
) -> float:
    """The difference between the predictions of two models, over guided steps from equal latents.

    Returns:
        The largest difference of any branch at any step, divided by the largest expected value of this branch and
        step.
    """
    plan, now, branches = pair.prepare(steps=steps, **options)
    scheduler, guider, gates, worst = SchedulerState(), GuiderState(), GateState(), 0.0
    with torch.no_grad():
        for step in plan:
            ours = denoiser.predict(made, now, step, branches, gates, run or DirectRun())
            theirs = denoiser.predict(expected, now, step, branches, gates, DirectRun())
            assert set(ours.branches) == set(theirs.branches) == set(branches.active(step))
            for name, tensor in theirs.branches.items():
                worst = max(worst, ((ours.branches[name] - tensor).abs().max() / tensor.abs().max()).item())
            now = schedule.step(plan, step, now, cfg.merge(theirs, branches, guider), scheduler)
    return worst
