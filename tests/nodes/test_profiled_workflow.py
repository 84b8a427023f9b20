"""A whole workflow on a tiny model with each way to watch it. The tests for a GPU are skipped without one."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sgd
import torch
from helpers.perfetto_queries import answers
from jsonschema import Draft202012Validator
from safetensors.torch import load_file
from sgd.graph.runtime.observers import kernel_profile, nvtx_ranges
from sgd.graph.runtime.observers.kernel_events import OTHER
from sgd.graph.runtime.profiling import Profiling

SCHEMA = Draft202012Validator(json.loads((Path(__file__).parents[2] / "docs" / "run.schema.json").read_text()))
FILE = """
sgd: 1
name: watched
inputs:
  source: {type: str}
nodes:
  model: {uses: model.load, with: {source: $source, dtype: float32}}
  text: {uses: text.encode, with: {model: $model, prompt: cat, negative: dark, max_length: 16}}
  noise: {uses: latents.noise, with: {model: $model, width: 32, height: 32, frames: 5, seed: 3}}
  schedule: {uses: schedule.make, with: {model: $model, steps: 4}}
  gate: {uses: cache.fora, with: {every: 2}}
  denoise:
    for: {step: $schedule}
    carry: {latents: $noise}
    body:
      split: {uses: cfg.split, with: {conditioning: $text, scale: 5.0}}
      predict:
        uses: denoiser.predict
        with: {model: $model, latents: $latents, step: $step, branches: $split, gate: $gate}
      guided: {uses: cfg.merge, with: {predictions: $predict, branches: $split}}
      next: {uses: schedule.step, with: {schedule: $schedule, step: $step, latents: $latents, velocity: $guided}}
    yield: {latents: $next}
  saved: {uses: latents.save, with: {latents: $denoise, path: latents.safetensors}}
  frames: {uses: vae.decode, with: {model: $model, latents: $denoise}}
  video: {uses: video.save, with: {frames: $frames, path: clip.mp4}}
outputs: {video: $video, saved: $saved}
"""
GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.fixture
def plan(wan_folder: Path, tmp_path: Path) -> Any:
    (tmp_path / "w.yaml").write_text(FILE)
    return sgd.compile(tmp_path / "w.yaml", inputs={"source": str(wan_folder)})


def latents(run: Any) -> torch.Tensor:
    assert run.status == "done"
    return load_file(run.folder / "latents.safetensors")["latents"]


def test_watching_does_not_change_the_result(plan: Any, tmp_path: Path) -> None:
    plain = latents(sgd.run(plan, out=tmp_path / "plain"))
    watched = Profiling("torch", trace=tmp_path / "trace.json", trace_values=tmp_path / "values.jsonl")
    run = sgd.run(plan, out=tmp_path / "watched", profile=watched)
    assert torch.equal(latents(run), plain)
    assert torch.equal(latents(sgd.run(plan, out=tmp_path / "off", profile="off")), plain)
    record = json.loads((run.folder / "run.json").read_text())
    SCHEMA.validate(record)
    assert record["options"]["profile"] == "torch"
    assert {"text", "denoise.predict", "denoise.next", "frames"} <= {row["node"] for row in record["kernels"]}
    # A transformer block of Wan has two attentions; this gate computes every second step.
    attention = [row for row in record["kernels"] if row["name"] == "aten::scaled_dot_product_attention"]
    computed = sum(row["computed"] for row in record["gates"])
    assert [row["calls"] for row in attention if row["node"] == "denoise.predict"] == [2 * 2 * computed]
    own = sum(row["seconds"] for row in record["kernels"] if row["node"] != OTHER)
    assert 0 < own <= 1.05 * sum(row["seconds"] for row in record["nodes"] if row["name"] not in ("denoise",))
    assert 0 < record["profiler_seconds"] < record["seconds"]

    rows = [json.loads(line) for line in (tmp_path / "values.jsonl").read_text().splitlines()]
    final = [row for row in rows if row["node"] == "denoise.next"][-1]
    numbers = plain.double().numpy()
    assert final["turns"] == {"denoise": 3}
    assert (final["call"], final["port"], final["shape"], final["dtype"]) == (4, "latents", [*plain.shape], "float32")
    assert final["mean"] == pytest.approx(numbers.mean(), abs=1e-9)
    assert final["deviation"] == pytest.approx(numbers.std(), rel=1e-9)
    assert final["largest"] == pytest.approx(np.abs(numbers).max(), rel=1e-9)
    assert {row["not_finite"] for row in rows} == {0}
    calls = Counter(row["node"] for row in rows)
    predictions = Counter(row["tensor"] for row in rows if row["node"] == "denoise.predict")
    assert (predictions["branches.positive"], predictions["branches.negative"]) == (4, 4)
    assert calls["text"] == 2
    assert "model" not in calls

    named, kernels, gates, nested = answers(
        tmp_path / "trace.json",
        tmp_path,
        "select count(*) from slice where name = 'frames · vae.decode'",
        "select count(*) from slice k join slice n on n.name = 'frames · vae.decode' where k.category = 'operator' and "
        "extract_arg(k.arg_set_id, 'args.node') = 'frames' "
        "and (k.ts < n.ts - 1000000 or k.ts + k.dur > n.ts + n.dur + 1000000)",
        "select name, count(*) from slice where category = 'gate' group by 1 order by 1",
        "select parent.category, slice.category, count(*) from slice join slice parent on slice.parent_id = parent.id "
        "where slice.category in ('branch', 'block') group by 1, 2 order by 1, 2",
    )
    assert named == [(1,)]
    assert kernels == [(0,)]  # the operators of the decoder lie inside its span
    assert sum(count for name, count in gates) == len(record["gates"]) == 8
    assert any("not computed" in name for name, _ in gates)
    assert nested == [("branch", "block", 2 * computed), ("node", "branch", 8)]


def test_steps_choose_kernels(plan: Any, tmp_path: Path) -> None:
    chosen = Profiling("torch", nodes="denoise.predict", steps="0")
    record = sgd.run(plan, out=tmp_path / "out", profile=chosen).record
    assert record["options"]["profile_steps"] == "0"
    attention = [row for row in record["kernels"] if row["name"] == "aten::scaled_dot_product_attention"]
    assert [(row["node"], row["calls"]) for row in attention] == [("denoise.predict", 8)]
    assert {row["node"] for row in record["kernels"]} <= {"denoise.predict", OTHER}


def test_values_of_a_step_with_nan(plan: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sgd.nodes.families.wan import Wan

    real = Wan.predict

    def broken(self: Any, model: Any, transformer: Any, given: Any) -> torch.Tensor:
        made = real(self, model, transformer, given)
        if given.step.index == 2:
            made[0, 0, 0, 0, :2] = torch.tensor([float("nan"), float("inf")])
        return made

    monkeypatch.setattr(Wan, "predict", broken)
    file = tmp_path / "values.jsonl"
    profile = Profiling(trace_values=file)
    sgd.run(plan, out=tmp_path / "out", options={"no_check_finite": True}, profile=profile)
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    first = next(row for row in rows if row["not_finite"])
    assert (first["node"], first["turns"], first["tensor"]) == ("denoise.predict", {"denoise": 2}, "branches.positive")
    assert first["not_finite"] == 2
    assert first["mean"] is not None


@GPU
def test_on_a_gpu_kernels_sum_up_as_torch_sums_them(plan: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    profiles: list[Any] = []
    real = kernel_profile.KernelProfile._add_up

    def kept(self: Any, profiler: Any, markers: Any) -> None:
        profiles.append(profiler)
        real(self, profiler, markers)

    monkeypatch.setattr(kernel_profile.KernelProfile, "_add_up", kept)
    sgd.run(plan, out=tmp_path / "warm", device="cuda")
    trace = tmp_path / "trace.json"
    run = sgd.run(plan, out=tmp_path / "out", device="cuda", profile=Profiling("torch", trace=trace))
    rows = run.record["kernels"]
    SCHEMA.validate(json.loads((run.folder / "run.json").read_text()))
    ours = sum(row["device_seconds"] for row in rows)
    # Rows of kernels; rows of operators and marked ranges repeat the time of the kernels that they launched.
    kernels = {row["name"] for row in rows}
    theirs = sum(row.self_device_time_total for made in profiles for row in made.key_averages() if row.key in kernels)
    assert ours == pytest.approx(theirs / 1e6, rel=1e-3)
    by_node = Counter[str]()
    for row in rows:
        by_node[row["node"]] += row["device_seconds"]
    assert {"text", "denoise.predict", "denoise.next", "frames"} <= set(by_node)
    assert by_node[OTHER] < 0.5 * ours  # what is loaded, and no more
    measured = {row["name"]: row["device_seconds"] for row in run.record["nodes"]}
    for node in ("denoise.predict", "frames"):
        # Device events stand around the whole node; the tiny model's kernels fill little of it.
        assert by_node[node] <= 1.05 * measured[node]
    found = answers(
        trace,
        tmp_path,
        "select count(*) from slice where category = 'kernel'",
        "select count(*) from slice k join slice n on n.category = 'node' and n.name like 'frames%' where "
        "k.category = 'kernel' and extract_arg(k.arg_set_id, 'args.node') = 'frames' and k.ts < n.ts - 1000000",
    )
    assert found[0] == [(sum(row["calls"] for row in rows),)]
    assert found[1] == [(0,)]  # no kernel runs before the node that launched it


@GPU
def test_on_a_gpu_a_window_holds_the_work_of_its_steps_alone(plan: Any, tmp_path: Path) -> None:
    sgd.run(plan, out=tmp_path / "warm", device="cuda")
    calls = []
    for steps in ("0", "0,2"):
        chosen = Profiling("torch", nodes="denoise.predict", steps=steps)
        rows = sgd.run(plan, out=tmp_path / f"out{steps}", device="cuda", profile=chosen).record["kernels"]
        calls.append(sum(row["calls"] for row in rows if row["node"] == "denoise.predict"))
    assert calls[0] > 0
    assert calls[1] == pytest.approx(2 * calls[0], rel=0.3)  # both steps are computed


@GPU
def test_on_a_gpu_watching_does_not_change_the_result(plan: Any, tmp_path: Path) -> None:
    plain = latents(sgd.run(plan, out=tmp_path / "plain", device="cuda"))
    for mode in ("torch", "nvtx", "off"):
        watched = Profiling(mode, trace=tmp_path / f"{mode}.json", trace_values=tmp_path / f"{mode}.jsonl")
        assert torch.equal(latents(sgd.run(plan, out=tmp_path / mode, device="cuda", profile=watched)), plain)


@GPU
def test_on_a_gpu_ranges_run_without_the_tool(plan: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log: list[str] = []
    depth = [0]

    class Noting(nvtx_ranges.TorchRanges):
        def __init__(self) -> None:
            super().__init__()
            push, pop, start = self.push, self.pop, self.start
            self.push = lambda name: (log.append(name), depth.append(depth[-1] + 1), push(name))
            self.pop = lambda: (depth.append(depth[-1] - 1), pop())
            self.start = lambda: (log.append("start"), start())

        def stop(self) -> None:
            log.append("stop")
            super().stop()

    monkeypatch.setattr("sgd.graph.runtime.profiling.TorchRanges", Noting)
    chosen = Profiling("nvtx", nodes="denoise.predict", steps="2")
    assert sgd.run(plan, out=tmp_path / "out", device="cuda", profile=chosen).status == "done"
    blocks = ["block blocks.0", "block blocks.1"]
    assert log == [
        "denoise 2", "start", "denoise.predict (denoiser.predict)",
        "branch positive", *blocks, "branch negative", *blocks, "stop",
    ]  # fmt: skip
    assert (max(depth), depth[-1]) == (4, 0)
