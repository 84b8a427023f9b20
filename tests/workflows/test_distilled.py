"""The workflows for distilled models: they make what diffusers' pipelines make with the settings of those models."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest
import sgd
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from helpers import tiny, tiny_qwen_image, tiny_wan_image
from helpers.changed import adapters
from safetensors.torch import load_file

FOLDER = Path(sgd.__file__).parent / "workflows"
NAMES = (
    *("wan2_2_t2v_a14b_4step", "wan2_2_i2v_a14b_4step"),
    *("qwen_image_lightning_4step", "qwen_image_lightning_8step"),
)
SIZES = {"wan": {"width": 32, "height": 32, "frames": 9}, "qwen": {"width": 32, "height": 32}}


class EvenLevels(FlowMatchEulerDiscreteScheduler):
    """The scheduler of Wan2.2-Lightning (wan/utils/fm_solvers_euler.py): levels 1, 3/4, … before the shift."""

    def set_timesteps(self, num_inference_steps: int | None = None, device: Any = None, **_: Any) -> None:
        assert num_inference_steps is not None
        levels = numpy.linspace(1000, 0, num_inference_steps + 1, dtype=numpy.float32)[:-1] / 1000
        super().set_timesteps(sigmas=levels.tolist(), device=device)


def wan(name: str) -> Any:
    if "i2v" in name:
        return tiny_wan_image.image_to_video(clip=False, experts=2, boundary_ratio=0.9)
    return tiny.wan(experts=2, boundary_ratio=0.875)


def qwen(_: str) -> Any:
    return tiny_qwen_image.build(use_dynamic_shifting=True, max_image_seq_len=8192, max_shift=0.9, shift_terminal=0.02)


BUILDERS: dict[str, Callable[[str], Any]] = {"wan": wan, "qwen": qwen}


def family(name: str) -> str:
    return "wan" if name.startswith("wan") else "qwen"


def loras(pipeline: Any, name: str, folder: Path) -> dict[str, Path]:
    """Random adapters: the value of each input for one."""
    names = ("lora_high", "lora_low") if family(name) == "wan" else ("lora",)
    return {each: adapters(pipeline, folder, seed) for seed, each in enumerate(names)}


def expected(pipeline: Any, name: str, files: dict[str, Path], picture: Any) -> torch.Tensor:
    """The latents of diffusers' pipeline, as the authors of the LoRAs set it up."""
    pipeline.set_progress_bar_config(disable=True)
    options: dict[str, Any] = {"generator": torch.Generator("cpu").manual_seed(42), "output_type": "latent"}
    if family(name) == "qwen":
        config = {
            "base_image_seq_len": 256,
            "base_shift": numpy.log(3).item(),
            "invert_sigmas": False,
            "max_image_seq_len": 8192,
            "max_shift": numpy.log(3).item(),
            "num_train_timesteps": 1000,
            "shift": 1.0,
            "shift_terminal": None,
            "stochastic_sampling": False,
            "time_shift_type": "exponential",
            "use_beta_sigmas": False,
            "use_dynamic_shifting": True,
            "use_exponential_sigmas": False,
        }
        pipeline.scheduler = FlowMatchEulerDiscreteScheduler.from_config(config)
        pipeline.load_lora_weights(files["lora"])
        steps = int(name[-5])
        made = pipeline("a cat", width=32, height=32, num_inference_steps=steps, true_cfg_scale=1.0, **options).images
        assert isinstance(made, torch.Tensor)
        return made
    pipeline.scheduler = EvenLevels(shift=5.0)
    pipeline.load_lora_weights(files["lora_high"], adapter_name="high")
    pipeline.load_lora_weights(files["lora_low"], adapter_name="low", load_into_transformer_2=True)
    given = {"image": picture} if picture is not None else {}
    sizes = {"width": 32, "height": 32, "num_frames": 9, "num_inference_steps": 4, "guidance_scale": 1.0}
    made = pipeline(prompt="a cat", **given, **sizes, **options).frames
    assert isinstance(made, torch.Tensor)
    return made


def with_latents(name: str, folder: Path) -> Path:
    """The workflow, saving its latents in place of a file."""
    for part in ("parts", "images"):
        (folder / part).symlink_to(FOLDER / part)
    text = (FOLDER / f"{name}.yaml").read_text()
    source = "denoise" if family(name) == "wan" else "image.latents"
    saved = f"saved: {{uses: latents.save, with: {{latents: ${source}, path: latents.safetensors}}}}\n\noutputs"
    text = re.sub(r"(  decoded: .*\n)?  (video|file): .*\n\noutputs", f"  {saved}", text)
    text = re.sub(r"outputs: .*", "outputs: {latents: $saved}", text)
    if family(name) == "qwen":
        (folder / "parts").unlink()
        (folder / "parts").mkdir()
        part = (FOLDER / "parts" / "text_to_image.yaml").read_text()
        (folder / "parts" / "text_to_image.yaml").write_text(
            part.replace("outputs: {frames: $decoded}", "outputs: {latents: $denoise, frames: $decoded}")
        )
    (folder / f"{name}.yaml").write_text(text)
    return folder / f"{name}.yaml"


@pytest.mark.parametrize("name", NAMES)
def test_a_workflow_makes_what_the_pipeline_makes(tmp_path: Path, name: str) -> None:
    pipeline = BUILDERS[family(name)](name)
    pipeline.save_pretrained(tmp_path / "model")
    files = loras(pipeline, name, tmp_path)
    inputs: dict[str, Any] = {"prompt": "a cat", **SIZES[family(name)], **{k: str(v) for k, v in files.items()}}
    picture = None
    if "i2v" in name:
        picture = tiny_wan_image.picture(32, 32)
        picture.save(tmp_path / "first.png")
        inputs["image"] = str(tmp_path / "first.png")
    file = with_latents(name, tmp_path)
    settings = {"model.source": str(tmp_path / "model")}
    made = {}
    for strength in (1.0, 0.0):
        plan = sgd.compile(file, inputs={**inputs, "strength": strength}, set=settings)
        run = sgd.run(plan, out=tmp_path / f"out-{strength}", device="cpu")
        assert run.status == "done", run.error
        made[strength] = load_file(run.folder / "latents.safetensors")["latents"]
    reference = expected(pipeline, name, files, picture)
    largest = reference.abs().max()
    assert (made[1.0] - reference).abs().max() <= 3e-5 * largest
    assert (made[0.0] - reference).abs().max() > 1e-3 * largest


@pytest.mark.parametrize("name", NAMES[1:3])
def test_random_weights_go_without_the_files_and_say_so(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    BUILDERS[family(name)](name).save_pretrained(tmp_path / "model")
    settings = {"model.source": str(tmp_path / "model")}
    plan = sgd.compile(FOLDER / f"{name}.yaml", inputs={"prompt": "a cat", **SIZES[family(name)]}, set=settings)
    run = sgd.run(plan, out=tmp_path / "out", device="cpu", options={"weights": "dummy"})
    assert run.status == "done", run.error
    named = [warning for warning in run.record["warnings"] if "is not on this disk" in warning]
    assert len(named) == (2 if family(name) == "wan" else 1)
    assert all(re.search(r"lightx2v/[\w.-]+/\S+\.safetensors is not on this disk", warning) for warning in named)
