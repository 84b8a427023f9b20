"""`--overlap` with the small model: files, gates and records are those of a run without it, byte by byte."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest
import sgd
from helpers.untimed_records import untimed

TWO_LOOPS = """
sgd: 1
name: clips
inputs:
  prompts: {type: "list[str]", default: [a red circle, a green square]}
nodes:
  model: {uses: model.load, with: {source: "sgd:models/tiny-wan"}}
  schedule: {uses: schedule.make, with: {model: $model, steps: 4}}
  gate: {uses: cache.fora, with: {every: 2}}
  encode:
    for: {prompt: $prompts}
    body: {text: {uses: text.encode, with: {model: $model, prompt: $prompt, max_length: 16}}}
    yield: {text: $text}
  generate:
    for: {text: $encode}
    body:
      noise: {uses: latents.noise, with: {model: $model, width: 32, height: 32, frames: 5, seed: 3}}
      denoise:
        uses: "sgd:parts/cfg_denoise.yaml"
        with: {model: $model, text: $text, latents: $noise, schedule: $schedule, scale: 4.0, gate: $gate}
    yield: {latents: $denoise}
  save:
    for: {latents: $generate}
    body:
      frames: {uses: vae.decode, with: {model: $model, latents: $latents}}
      video: {uses: video.save, with: {frames: $frames, fps: 8, path: "clip-${index}.mp4"}}
    yield: {video: $video}
outputs: {videos: $save}
"""
BETWEEN = """    yield: {latents: $denoise}
  save:
    for: {latents: $generate}
    body:
"""
NAMES = {BETWEEN: "", "latents: $latents": "latents: $denoise", "videos: $save": "videos: $generate"}
ONE_LOOP = functools.reduce(lambda text, name: text.replace(name, NAMES[name]), NAMES, TWO_LOOPS)


@pytest.mark.parametrize("text", [TWO_LOOPS, ONE_LOOP], ids=["two-loops", "one-loop"])
def test_clips_gates_and_records_are_as_without_it(text: str, tmp_path: Path) -> None:
    file = tmp_path / "clips.yaml"
    file.write_text(text)
    plan = sgd.compile(file)
    with sgd.session():
        sgd.run(plan, out=tmp_path / "first")  # the next two have the same components in memory
        before = sgd.run(plan, out=tmp_path / "without")
        after = sgd.run(plan, out=tmp_path / "with", overlap=True)
    assert after.status == before.status == "done", after.error
    clips = {path.name: path.read_bytes() for path in (tmp_path / "without").glob("*.mp4")}
    assert len(clips) == 2
    assert {path.name: path.read_bytes() for path in (tmp_path / "with").glob("*.mp4")} == clips
    assert after.record["gates"] == before.record["gates"]
    assert untimed(after.record) == untimed(before.record)
    marked = {row["type"] for row in after.record["nodes"] if row.get("overlapped")}
    assert {"vae.decode", "video.save"} <= marked
