"""Peak memory of one clip, here and with diffusers' WanPipeline: `python tests/benchmarks/memory.py`.

The same random model of a few hundred megabytes, the same prompt, seed, size and steps; each side loads it from its
files in a process of its own. The benchmark compares the largest resident memory (VmHWM, Linux only) less what the
process held after its imports, which are the same on both sides. Pages of weight files count while they are mapped.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

SIDES = ("sgd", "diffusers")
PROMPT, SIZE, FRAMES, STEPS = "a red circle moves left", 64, 9, 3
FILE = f"""
sgd: 1
name: memory
inputs: {{source: {{type: str}}}}
nodes:
  model: {{uses: model.load, with: {{source: $source, dtype: float32}}}}
  text: {{uses: text.encode, with: {{model: $model, prompt: ["{PROMPT}"], negative: dark, max_length: 32}}}}
  noise: {{uses: latents.noise, with: {{model: $model, width: {SIZE}, height: {SIZE}, frames: {FRAMES}, seed: 3}}}}
  schedule: {{uses: schedule.make, with: {{model: $model, steps: {STEPS}}}}}
  denoise:
    for: {{step: $schedule}}
    carry: {{latents: $noise}}
    body:
      split:    {{uses: cfg.split,        with: {{conditioning: $text, scale: 5.0}}}}
      velocity: {{uses: denoiser.predict, with: {{model: $model, latents: $latents, step: $step, branches: $split}}}}
      guided:   {{uses: cfg.merge,        with: {{predictions: $velocity, branches: $split}}}}
      next:
        uses: schedule.step
        with: {{schedule: $schedule, step: $step, latents: $latents, velocity: $guided}}
    yield: {{latents: $next}}
  decode: {{uses: vae.decode, with: {{model: $model, latents: $denoise}}}}
  sheet: {{uses: frames.grid, with: {{frames: $decode, gap: 0, every: 1}}}}
  image: {{uses: image.save, with: {{frames: $sheet, path: sheet.png}}}}
outputs: {{image: $image}}
"""


def build(folder: Path) -> dict[str, float]:
    """Save a Wan pipeline with random weights, float32; the megabytes of each component."""
    import torch
    from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanPipeline, WanTransformer3DModel
    from helpers import tiny
    from transformers import UMT5Config, UMT5EncoderModel

    torch.manual_seed(0)
    encoder = UMT5Config(
        vocab_size=16384,
        d_model=768,
        d_kv=64,
        d_ff=2048,
        num_layers=6,
        num_heads=12,
        feed_forward_proj="gated-gelu",
        pad_token_id=0,
        eos_token_id=1,
    )
    transformer = WanTransformer3DModel(
        num_attention_heads=8,
        attention_head_dim=64,
        text_dim=768,
        ffn_dim=2048,
        num_layers=6,
        rope_max_seq_len=32,
    )
    pipeline = WanPipeline(
        tokenizer=tiny.t5_tokenizer(),
        text_encoder=UMT5EncoderModel(encoder),
        transformer=transformer,
        vae=AutoencoderKLWan(base_dim=24),
        scheduler=UniPCMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, num_train_timesteps=1000, flow_shift=3.0
        ),
    )
    pipeline.save_pretrained(folder)
    parts = ("text_encoder", "transformer", "vae")
    return {n: sum(4 * p.numel() for p in getattr(pipeline, n).parameters()) / 1e6 for n in parts}


def here(folder: Path) -> tuple[float, list[float]]:
    """Peak of a run of the workflow above, in megabytes, and the pixels of the first frame."""
    import numpy as np
    import sgd
    from PIL import Image

    out = Path(tempfile.mkdtemp(dir=folder.parent))
    file = out / "memory.yaml"
    file.write_text(FILE)
    imported()
    before = reset()
    run = sgd.run(sgd.compile(file, inputs={"source": str(folder)}), out=out / "run", device="cpu")
    peak = high_water() - before
    assert run.status == "done"
    with Image.open(run.folder / "sheet.png") as opened:
        pixels = np.asarray(opened.convert("RGB"), dtype=np.float32) / 255
    return peak, pixels[:SIZE, :SIZE].ravel().tolist()


def theirs(folder: Path) -> tuple[float, list[float]]:
    """The same of the pipeline."""
    import sgd  # noqa: F401  the baseline is the same
    import torch

    imported()
    from diffusers import WanPipeline

    before = reset()
    pipeline = WanPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    made = pipeline(
        prompt=PROMPT,
        negative_prompt="dark",
        width=SIZE,
        height=SIZE,
        num_frames=FRAMES,
        num_inference_steps=STEPS,
        guidance_scale=5.0,
        generator=torch.Generator("cpu").manual_seed(3),
        max_sequence_length=32,
        output_type="np",
    ).frames
    return high_water() - before, made[0, 0].ravel().tolist()


def imported() -> None:
    """Import, for both sides alike, what either of them imports, and let torch start up."""
    import diffusers
    import sgd.nodes.families
    import transformers
    from sgd.graph.language.registry import standard

    standard()
    assert sgd.nodes.families.FAMILIES
    names = ("WanPipeline", "AutoencoderKLWan", "WanTransformer3DModel", "UniPCMultistepScheduler")
    assert all(getattr(diffusers, name) for name in names)
    assert transformers.UMT5EncoderModel
    assert transformers.AutoTokenizer


def status(field: str) -> float:
    """A line of /proc/self/status, in megabytes (1e6 bytes)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:")) * 1024 / 1e6


def high_water() -> float:
    return status("VmHWM")


def reset() -> float:
    """Begin the high-water mark anew, proc(5); what is resident now, in megabytes."""
    Path("/proc/self/clear_refs").write_text("5")
    return status("VmRSS")


def measured(side: str, folder: Path) -> tuple[float, list[float]]:
    """Peak of one side above its imports, in megabytes, measured in a process of its own, and its first frame."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, __file__, side, str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    peak, pixels = json.loads(done.stdout.splitlines()[-1])
    return float(peak), pixels


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        sizes = build(Path(folder) / "wan")
        print(*(f"{name} {size:.0f} MB" for name, size in sizes.items()), sep=", ")
        for side in SIDES:
            peaks = sorted(measured(side, Path(folder) / "wan")[0] for _ in range(3))
            print(f"{side:10} {peaks[0]:6.0f} to {peaks[-1]:.0f} MB above its imports")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps((here if sys.argv[1] == "sgd" else theirs)(Path(sys.argv[2]))))
    else:
        main()
