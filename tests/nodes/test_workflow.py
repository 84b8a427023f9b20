"""The whole chain: a workflow file, compiled and run, makes the clip of WanPipeline."""

import pytest
import sgd
import torch
from helpers.peer import PROMPTS, pipeline_of, reference
from safetensors.torch import load_file

FILE = """
sgd: 1
name: parity
inputs:
  source: {type: str}
  prompt: {type: "list[str]"}
  scale: {type: float, default: 5.0}
nodes:
  model: {uses: model.load, with: {source: $source, dtype: float32}}
  text: {uses: text.encode, with: {model: $model, prompt: $prompt, negative: dark, max_length: 16}}
  noise: {uses: latents.noise, with: {model: $model, width: 48, height: 32, frames: 9, batch: 2, seed: 3}}
  schedule: {uses: schedule.make, with: {model: $model, steps: 4}}
  denoise:
    for: {step: $schedule}
    carry: {latents: $noise}
    body:
      split:    {uses: cfg.split,        with: {conditioning: $text, scale: $scale}}
      velocity: {uses: denoiser.predict, with: {model: $model, latents: $latents, step: $step, branches: $split}}
      guided:   {uses: cfg.merge,        with: {predictions: $velocity, branches: $split}}
      next:     {uses: schedule.step,    with: {schedule: $schedule, step: $step, latents: $latents, velocity: $guided}}
    yield: {latents: $next}
  saved: {uses: latents.save, with: {latents: $denoise, path: latents.safetensors}}
  decode: {uses: vae.decode, with: {model: $model, latents: $denoise}}
  sheet: {uses: frames.grid, with: {frames: $decode, gap: 0, every: 1}}
  image: {uses: image.save, with: {frames: $sheet, path: sheet.png}}
  video: {uses: video.save, with: {frames: $decode, path: clip.mp4}}
outputs: {image: $image, video: $video}
"""


@pytest.mark.parametrize("scale", [5.0, 1.0])
def test_a_workflow_file_makes_the_clip_of_the_pipeline(wan_folder, tmp_path, scale, monkeypatch):
    from helpers.direct import model_of
    from PIL import Image
    from transformers import UMT5EncoderModel

    file = tmp_path / "parity.yaml"
    file.write_text(FILE)
    encoded, forward = [], UMT5EncoderModel.forward
    monkeypatch.setattr(UMT5EncoderModel, "forward", lambda *a, **k: encoded.append(1) or forward(*a, **k))
    plan = sgd.compile(file, inputs={"source": str(wan_folder), "prompt": PROMPTS, "scale": scale})
    run = sgd.run(plan, out=tmp_path / "out", device="cpu")
    assert run.status == "done"
    assert len(encoded) == (2 if scale > 1 else 1)  # the negative prompt is encoded only if it is used

    states, frames = reference(
        pipeline_of(model_of(wan_folder)), PROMPTS, negative="dark", width=48, height=32, frames=9, seed=3, scale=scale
    )
    made = load_file(run.folder / "latents.safetensors")["latents"]
    assert (made - states[-1]).abs().max() <= 1e-5 * states[-1].abs().max()
    with Image.open(run.folder / "sheet.png") as opened:
        pixels = torch.tensor(list(opened.convert("RGB").tobytes())).view(2, 32, 9, 48, 3) / 255
    assert (pixels.permute(0, 2, 1, 3, 4) - frames).abs().max() <= 0.5 / 255 + 1e-4
    assert run.record["outputs"]["video"] == ["clip-0.mp4", "clip-1.mp4"]
