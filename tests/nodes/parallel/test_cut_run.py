"""`sgd exec` in two processes that cut the sequence: the latents and frames of one process."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import sgd
import torch
from helpers.processes import device_of
from safetensors.torch import load_file
from sgd.graph.contract.workflow_folders import bundled_workflows

WORKFLOW = """
sgd: 1
nodes:
  model: {{uses: model.load, with: {{source: {folder}/models/tiny-wan, dtype: float32}}}}
  text: {{uses: text.encode, with: {{model: $model, prompt: a large red circle, max_length: 32}}}}
  noise: {{uses: latents.noise, with: {{model: $model, width: {width}, height: 80, frames: 5}}}}
  schedule: {{uses: schedule.make, with: {{model: $model, steps: 4}}}}
  gate: {{uses: cache.dbcache, with: {{threshold: 0.4, warmup_steps: 1}}}}
  denoise:
    uses: {folder}/parts/cfg_denoise.yaml
    with: {{model: $model, text: $text, latents: $noise, schedule: $schedule, scale: 4.0, gate: $gate}}
  latents: {{uses: latents.save, with: {{latents: $denoise, path: clip.safetensors}}}}
  frames: {{uses: vae.decode, with: {{model: $model, latents: $denoise, tiling: {tiling}}}}}
  again: {{uses: vae.encode, with: {{model: $model, frames: $frames, tiling: {tiling}}}}}
  encoded: {{uses: latents.save, with: {{latents: $again, path: again.safetensors}}}}
outputs: {{latents: $latents, encoded: $encoded}}
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("width", "tiling", "way"),
    [(64, "auto", "2 strips of rows"), (272, "on", "off: the tiles are dealt to 2 processes")],
)
def test_the_latents_are_those_of_one_process(tmp_path, width, tiling, way):
    file = tmp_path / "workflow.yaml"
    file.write_text(WORKFLOW.format(folder=bundled_workflows(), width=width, tiling=tiling))
    device = device_of(2)
    # Convolutions on a GPU are in TF32, and a decode and an encode have many.
    bounds = {"clip.safetensors": 3e-3, "again.safetensors": 2e-2} if device == "cuda" else {}
    arrangement = ["--processes", "2", "--parallel", "ulysses=2", "--device", device]
    command = [sys.executable, "-m", "sgd", "exec", str(file), *arrangement, "--out", str(tmp_path / "two")]
    made = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert made.returncode == 0, made.stdout + made.stderr
    assert sgd.run(sgd.compile(file), out=tmp_path / "one", device=device).status == "done"
    for name in ("clip.safetensors", "again.safetensors"):
        one, two = (load_file(tmp_path / folder / name) for folder in ("one", "two"))
        for key, wanted in one.items():
            assert torch.allclose(two[key], wanted, rtol=0, atol=bounds.get(name, 3e-5) * wanted.abs().max().item()), (
                name
            )
    records = [json.loads((tmp_path / folder / "run.json").read_text()) for folder in ("one", "two")]
    steps = [[(total["branch"], total["steps"]) for total in record["gate_totals"]] for record in records]
    assert steps[0] == steps[1]
    assert any("0" in digits for _, digits in steps[0]), "some steps were reused"
    details = {row["name"]: row["detail"] for row in records[1]["nodes"]}
    assert [details[name]["strips"] for name in ("frames", "again")] == [way, way]
    assert len(records[1]["processes"]) == 2
    assert all(row["exchanged_bytes"] > 0 for row in records[1]["processes"])
