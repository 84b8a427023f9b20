"""Whole models of every family whose components are all single files: the image is that of the model's folder."""

from __future__ import annotations

import importlib
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import sgd
import torch
from helpers import checkpoint_layouts as layouts
from safetensors.torch import load_file, save_file


class Family(NamedTuple):
    """Where the tiny model is built, the layouts of its files, and what its workflow needs."""

    module: str
    build: str
    files: dict[str, Any]
    guidance: str
    size: str = ""


FAMILIES = {
    "flux": Family(
        *("tiny_flux", "build"),
        {
            "transformer": layouts.flux,
            "vae": layouts.kl_vae,
            "text_encoder": layouts.comfy_clip,
            "text_encoder_2": layouts.comfy_t5,
        },
        "1.0, embedded: 3.5",
    ),
    "hunyuan_video": Family(
        *("tiny_hunyuan_video", "hunyuan_video"),
        {
            "transformer": layouts.hunyuan_comfy,
            "vae": layouts.kl_vae,
            "text_encoder": layouts.causal,
            "text_encoder_2": layouts.comfy_clip,
        },
        "1.0, embedded: 6.0",
        ", frames: 5",
    ),
    "qwen_image": Family(
        *("tiny_qwen_image", "build"),
        {
            "transformer": layouts.prefixed("model.diffusion_model."),
            "vae": layouts.wan_vae,
            "text_encoder": layouts.older_qwen_vl,
        },
        "4.0",
    ),
    "z_image": Family(
        *("tiny_z_image", "build"),
        {
            "transformer": layouts.prefixed("model.diffusion_model.", layouts.z_image),
            "vae": layouts.kl_vae,
            "text_encoder": layouts.causal,
        },
        "0.0",
    ),
}

WORKFLOW = """
sgd: 1
nodes:
  model: {{uses: model.load, with: {{source: {source}, dtype: bfloat16{files}}}}}
  text: {{uses: text.encode, with: {{model: $model, prompt: "a red circle", negative: "", max_length: 64}}}}
  noise: {{uses: latents.noise, with: {{model: $model, width: 32, height: 32, seed: 0{size}}}}}
  schedule: {{uses: schedule.make, with: {{model: $model, steps: 2, latents: $noise}}}}
  denoise:
    for: {{step: $schedule}}
    carry: {{latents: $noise}}
    body:
      split: {{uses: cfg.split, with: {{conditioning: $text, scale: {guidance}}}}}
      predict: {{uses: denoiser.predict, with: {{model: $model, latents: $latents, step: $step, branches: $split}}}}
      guide: {{uses: cfg.merge, with: {{predictions: $predict, branches: $split}}}}
      next: {{uses: schedule.step, with: {{schedule: $schedule, step: $step, latents: $latents, velocity: $guide}}}}
    yield: {{latents: $next}}
  frames: {{uses: vae.decode, with: {{model: $model, latents: $denoise}}}}
  encoded: {{uses: vae.encode, with: {{model: $model, frames: $frames}}}}
  out: {{uses: latents.save, with: {{latents: $encoded, path: out.safetensors}}}}
outputs: {{out: $out}}
"""


@pytest.mark.parametrize("name", FAMILIES)
def test_a_model_of_single_files_is_the_model(name, tmp_path):
    family = FAMILIES[name]
    pipeline = getattr(importlib.import_module(f"helpers.{family.module}"), family.build)()
    pipeline.save_pretrained(tmp_path / "whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "bare")
    for part, layout in family.files.items():
        for weights in (tmp_path / "bare" / part).glob("*.safetensors"):
            weights.unlink()
        state = layout(getattr(pipeline, part).state_dict())
        save_file({key: tensor.contiguous() for key, tensor in state.items()}, tmp_path / f"{part}.safetensors")
    files = "".join(f", {part}: ./{part}.safetensors" for part in family.files)
    made = []
    for source, given in (("whole", ""), ("bare", files)):
        file = Path(tmp_path / f"{source}.yaml")
        file.write_text(WORKFLOW.format(source=f"./{source}", files=given, size=family.size, guidance=family.guidance))
        run = sgd.run(sgd.compile(file), out=tmp_path / f"out-{source}")
        assert run.status == "done", run.error
        made.append(load_file(tmp_path / f"out-{source}" / "out.safetensors"))
    assert made[0].keys() == made[1].keys()
    assert all(torch.equal(made[0][key], made[1][key]) for key in made[0])
