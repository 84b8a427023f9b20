"""Times of whole processes: rows and phases sum to the seconds of the run, with and without compiled kernels."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

SIZE = ("--set", "noise.width=32", "--set", "noise.height=32", "--set", "noise.frames=5")
COMPILED = """
sgd: 1
name: compiled
nodes:
  model: {uses: model.load, with: {source: sgd:models/tiny-wan}}
  fast: {uses: model.compile, with: {model: $model}}
  text: {uses: text.encode, with: {model: $model, prompt: a red circle, max_length: 32}}
  noise: {uses: latents.noise, with: {model: $model, width: 32, height: 32, frames: 5, seed: 0}}
  schedule: {uses: schedule.make, with: {model: $model, steps: 2}}
  denoise:
    uses: sgd:parts/cfg_denoise.yaml
    with: {model: $fast, text: $text, latents: $noise, schedule: $schedule, scale: 1}
  frames: {uses: vae.decode, with: {model: $model, latents: $denoise}}
  video: {uses: video.save, with: {frames: $frames, path: clip.mp4, fps: 8}}
outputs: {video: $video}
"""


def executed(*words: str, out: Path) -> tuple[dict[str, Any], float]:
    """The record of a process, and the seconds from its start to its end."""
    began = time.time()
    command = [sys.executable, "-m", "sgd", "exec", *words, "--quiet", "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    seconds = time.time() - began
    assert done.returncode == 0, done.stderr
    return json.loads((out / "run.json").read_text()), seconds


def adds_up(record: dict[str, Any], process: float) -> dict[str, float]:
    """Check the sums. Returns the seconds of each row."""
    rows = {row["name"]: row["seconds"] for row in record["nodes"]}
    top = sum(seconds for name, seconds in rows.items() if "." not in name)
    assert sum(record["phases"].values()) == pytest.approx(record["seconds"], rel=0.02)
    assert top == pytest.approx(record["seconds"], rel=0.02)
    assert abs(record["unaccounted_seconds"]) <= 0.02 * record["seconds"]
    assert record["seconds"] <= process + 0.1  # the system reports the start in ticks of 10 ms
    assert all(seconds >= 0 for seconds in rows.values())
    return rows


@pytest.mark.slow
def test_the_quickstart_adds_up_and_ends_soon_after_its_last_byte(tmp_path: Path) -> None:
    record, process = executed("quickstart", "steps=4", *SIZE, out=tmp_path)
    rows = adds_up(record, process)
    assert record["phases"]["kernels"] == 0
    assert record["seconds"] > 0.8 * process
    assert rows["(import)"] > 0.2 * record["seconds"]
    assert rows["text"] < rows["(import)"]  # it is the first to need transformers, and is not charged for it


@pytest.mark.slow
def test_compiling_is_not_charged_to_the_node_that_waited_for_it(tmp_path: Path) -> None:
    file = tmp_path / "compiled.yaml"
    file.write_text(COMPILED)
    record, process = executed(str(file), out=tmp_path / "out")
    rows = adds_up(record, process)
    predict = next(row for row in record["nodes"] if row["name"] == "denoise.loop.predict")
    assert rows["(kernels)"] == record["phases"]["kernels"] > 5 * predict["seconds"]
    assert predict["detail"]["compile_seconds"] == pytest.approx(rows["(kernels)"], rel=0.1, abs=0.5)
    assert predict["flops"] is None  # a compiled model is not counted
