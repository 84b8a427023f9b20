"""Files as public tools write them, in whole workflows: results are those of weights that are merged by hand."""

from __future__ import annotations

import importlib
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import sgd
import torch
from helpers.lora_layouts import Maker, adapted, lora
from safetensors.torch import load_file, save_file

Tensors = dict[str, torch.Tensor]


class Case(NamedTuple):
    family: str
    layout: str
    form: str
    only: str = ""
    scale: float = 1.0


CASES = {
    "FLUX, LoKr of LyCORIS": Case("flux", "lycoris", "lokr", "attn.to_q"),
    "FLUX with a text encoder": Case("flux", "kohya", "alpha below rank"),
    "HunyuanVideo, flat names": Case("hunyuan_video", "kohya", "alpha below rank"),
    "Qwen-Image, an alpha after a dot": Case("qwen_image", "diffusers", "alpha above rank", "transformer_blocks"),
    "Wan, alpha below the rank": Case("wan", "ComfyUI", "alpha below rank", "blocks"),
    "Wan, base_model.model": Case("wan", "original, peft", "lora", "blocks"),
    "Wan, a modulation table": Case("wan", "ComfyUI", "lora", "blocks"),
    "Wan, dora_scale": Case("wan", "diffusers", "dora", "attn"),
    "Wan, flat names, attention alone": Case("wan", "kohya", "alpha below rank", "attn"),
    "Wan, a head": Case("wan", "ComfyUI", "diff", "head"),
    "Z-Image, LoKr": Case("z_image", "ComfyUI", "lokr", "attention"),
    "Z-Image, LoHa at half strength": Case("z_image", "original, no prefix", "loha", scale=0.5),
}

SIZES = {"wan": ", frames: 5", "hunyuan_video": ", frames: 5"}
GUIDANCE = {"flux": "1.0, embedded: 3.5", "hunyuan_video": "1.0, embedded: 6.0", "z_image": "0.0"}
BUILDERS = {"wan": ("tiny", "wan"), "hunyuan_video": ("tiny_hunyuan_video", "hunyuan_video")}

WORKFLOW = """
sgd: 1
nodes:
  model: {{uses: model.load, with: {{source: {model}, dtype: float32}}}}
{lora}
  text: {{uses: text.encode, with: {{model: ${value}, prompt: "a red circle", negative: "", max_length: 64}}}}
  noise: {{uses: latents.noise, with: {{model: ${value}, width: 32, height: 32, seed: 0{size}}}}}
  schedule: {{uses: schedule.make, with: {{model: ${value}, steps: 2, latents: $noise}}}}
  denoise:
    for: {{step: $schedule}}
    carry: {{latents: $noise}}
    body:
      split: {{uses: cfg.split, with: {{conditioning: $text, scale: {guidance}}}}}
      predict: {{uses: denoiser.predict, with: {{model: ${value}, latents: $latents, step: $step, branches: $split}}}}
      guide: {{uses: cfg.merge, with: {{predictions: $predict, branches: $split}}}}
      next: {{uses: schedule.step, with: {{schedule: $schedule, step: $step, latents: $latents, velocity: $guide}}}}
    yield: {{latents: $next}}
  out: {{uses: latents.save, with: {{latents: $denoise, path: out.safetensors}}}}
outputs: {{latents: $out}}
"""


@cache
def pipeline(family: str) -> Any:
    module, function = BUILDERS.get(family, (f"tiny_{family}", "build"))
    return getattr(importlib.import_module(f"helpers.{module}"), function)()


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """The folder of a family's tiny model."""

    @cache
    def folder(family: str) -> Path:
        made = tmp_path_factory.mktemp("models") / family
        pipeline(family).save_pretrained(made)
        return made

    return folder


def latents(folder: Path, model: Path, family: str, loras: str = "", value: str = "model") -> tuple[torch.Tensor, Any]:
    """The latents that a workflow makes, and the run."""
    folder.mkdir()
    size, guidance = SIZES.get(family, ""), GUIDANCE.get(family, "1.0")
    text = WORKFLOW.format(model=model, lora=loras, value=value, size=size, guidance=guidance)
    (folder / "workflow.yaml").write_text(text)
    done = sgd.run(sgd.compile(folder / "workflow.yaml"), out=folder / "out", device="cpu")
    assert done.status == "done"
    return load_file(done.folder / "out.safetensors")["latents"], done


def merged(folder: Path, model: Path, parameters: Tensors) -> Path:
    """A copy of a model whose transformer has some other parameters."""
    (folder / "merged" / "transformer").mkdir(parents=True)
    for path in model.iterdir():
        if path.name != "transformer":
            (folder / "merged" / path.name).symlink_to(path)
    weights = "diffusion_pytorch_model.safetensors"
    config = (model / "transformer" / "config.json").read_text()
    (folder / "merged" / "transformer" / "config.json").write_text(config)
    state = load_file(model / "transformer" / weights)
    save_file({**state, **parameters}, folder / "merged" / "transformer" / weights)
    return folder / "merged"


def compare(made: torch.Tensor, expected: torch.Tensor, without: torch.Tensor) -> None:
    largest = expected.abs().max()
    assert (made - expected).abs().max() <= 3e-5 * largest
    assert (without - expected).abs().max() > 1e-3 * largest


@pytest.mark.parametrize("name", CASES)
def test_latents_are_those_of_merged_weights(tmp_path, folders, name):
    case = CASES[name]
    model = folders(case.family)
    state = pipeline(case.family).transformer.state_dict()
    file, parameters = adapted(state, *case[:3], only=case.only, scale=case.scale)
    if "table" in name:
        file["diffusion_model.blocks.0.diff_m"] = change = Maker(9).random(1, 6, 24)
        parameters["blocks.0.scale_shift_table"] = state["blocks.0.scale_shift_table"] + change
    if "encoder" in name:
        tensors, _ = lora(Maker(8), (24, 24))
        key = "lora_te1_text_model_encoder_layers_0_self_attn_q_proj"
        file |= {f"{key}.lora_{part}.weight": tensor for part, tensor in tensors.items()}
    save_file(file, tmp_path / "lora.safetensors")
    node = "  lora: {{uses: model.lora, with: {{model: $model, source: {}, scale: {}}}}}"
    loras = node.format(tmp_path / "lora.safetensors", case.scale)
    made, done = latents(tmp_path / "made", model, case.family, loras, "lora")
    expected, _ = latents(tmp_path / "expected", merged(tmp_path, model, parameters), case.family)
    without, _ = latents(tmp_path / "without", model, case.family)
    compare(made, expected, without)
    warned = [warning for warning in done.record["warnings"] if "lora.safetensors" in warning]
    assert len(warned) == ("encoder" in name), "the check and the node know it, and one tells it"


def test_two_loras_in_a_row_add_up(tmp_path, folders):
    model, state = folders("wan"), pipeline("wan").transformer.state_dict()
    one, first = adapted(state, "wan", "ComfyUI", "alpha below rank", scale=0.8, seed=1)
    two, both = adapted({**state, **first}, "wan", "kohya", "lokr", scale=-0.5, seed=2)
    save_file(one, tmp_path / "one.safetensors")
    save_file(two, tmp_path / "two.safetensors")
    loras = f"""  first: {{uses: model.lora, with: {{model: $model, source: {tmp_path}/one.safetensors, scale: 0.8}}}}
  second: {{uses: model.lora, with: {{model: $first, source: {tmp_path}/two.safetensors, scale: -0.5}}}}"""
    made, _ = latents(tmp_path / "made", model, "wan", loras, "second")
    expected, _ = latents(tmp_path / "expected", merged(tmp_path, model, both), "wan")
    without, _ = latents(tmp_path / "without", model, "wan")
    compare(made, expected, without)
