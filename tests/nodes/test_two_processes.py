"""`sgd exec --processes 2`: the files, decisions and record of one process, from two."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from helpers import rank_toys
from jsonschema import Draft202012Validator
from safetensors.torch import load_file
from sgd.graph.cli.main import main
from sgd.graph.contract.workflow_folders import bundled_workflows

ROOT = Path(__file__).parents[2]
TEXT = """
sgd: 1
name: both
nodes:
  model: {uses: model.load, with: {source: MODELS/tiny-wan}}
  text: {uses: text.encode, with: {model: $model, prompt: a red circle, max_length: 16}}
  noise: {uses: latents.noise, with: {model: $model, width: 32, height: 32, frames: 5, seed: 3}}
  schedule: {uses: schedule.make, with: {model: $model, steps: 5}}
  gate: {uses: cache.teacache, with: {threshold: 0.3, coefficients: [1.0, 0.0], warmup_steps: 1}}
  denoise:
    for: {step: $schedule}
    carry: {latents: $noise}
    body:
      split: {uses: cfg.split, with: {conditioning: $text, scale: 4.0, stop: 0.8}}
      predict:
        uses: denoiser.predict
        with: {model: $model, latents: $latents, step: $step, branches: $split, gate: $gate}
      guide: {uses: cfg.merge, with: {predictions: $predict, branches: $split}}
      next: {uses: schedule.step, with: {schedule: $schedule, step: $step, latents: $latents, velocity: $guide}}
    yield: {latents: $next}
  saved: {uses: latents.save, with: {latents: $denoise, path: clip.safetensors}}

  start: {uses: toy.start, with: {value: 1.0, rank: 1}}
  once: {uses: toy.once, with: {number: $start}}
  loop:
    for: {turn: [0, 1, 2]}
    carry: {state: $once}
    body:
      together: {uses: toy.together, with: {number: $state, turn: $turn, fault: drift}}
    yield: {state: $together}
  file: {uses: toy.write, with: {number: $loop, path: number.txt}}
outputs: {saved: $saved, file: $file}
"""


def decisions(record: dict[str, object]) -> list[tuple[object, ...]]:
    found = record["gates"]
    assert isinstance(found, list)
    return [(row["step"], row["branch"], row["computed"], row["distance"], row["reason"]) for row in found]


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "both.yaml").write_text(TEXT.replace("MODELS", str(bundled_workflows() / "models")))
    monkeypatch.chdir(tmp_path)
    return "both.yaml"


def test_two_processes_make_what_one_makes(file: str, capfd: pytest.CaptureFixture[str]) -> None:
    words = ["exec", file, "--library", rank_toys.__file__, "--device", "cpu", "--out"]
    assert main([*words, "one"]) == 0
    capfd.readouterr()
    assert main([*words, "two", "--processes", "2", "--trace", "two.trace"]) == 0
    told = capfd.readouterr()
    one, two = (json.loads(Path(folder, "run.json").read_text()) for folder in ("one", "two"))
    ours, reference = (load_file(Path(folder, "clip.safetensors"))["latents"] for folder in ("two", "one"))
    assert (ours - reference).abs().max() <= 3e-5
    assert decisions(one) == decisions(two)
    assert {reason for *_, reason in decisions(two)} > {"rule"}
    assert [row for row in one["gate_totals"] if row["branch"] == "negative"] != []
    assert one["gate_totals"] == two["gate_totals"]
    # One process: 1 + 0.01, for a run of one. Two: each turn adds the ranks 0 and 1, and the value of rank 0 goes on.
    assert Path("one", "number.txt").read_text() == "1.010000 of rank -\n"
    assert Path("two", "number.txt").read_text() == "4.010000 of rank 0\n"
    assert told.out.count("record: ") == 1
    assert "processes: 2 (branches=2)" in told.out
    assert sorted(path.name for path in Path("two").iterdir()) == ["clip.safetensors", "number.txt", "run.json"]
    assert two["parallel"] == {"branches": 2, "ulysses": 1, "ring": 1}
    rows = two["processes"]
    assert [row["rank"] for row in rows] == [0, 1]
    assert all(row["exchanged_bytes"] > 0 and row["seconds"] > 0 and row["peak_bytes"] > 0 for row in rows)
    Draft202012Validator(json.loads((ROOT / "docs" / "run.schema.json").read_text())).validate(two)
    assert "processes" not in one
    detail = next(row["detail"] for row in two["nodes"] if row["name"] == "denoise.predict")
    assert detail["guidance"] == "each branch in its process"
    nodes = {row["rank"]: {node["name"]: node["calls"] for node in row["nodes"]} for row in rows}
    assert nodes[0] == nodes[1] | {"text": 1, "once": 1, "saved": 1, "file": 1}
    check_trace(json.loads(Path("two.trace").read_text()))
    assert main(["plan", *words[1:-1], "--processes", "2", "--json"]) == 0
    planned = json.loads(capfd.readouterr().out)
    assert (planned["parallel"], planned["parallel_from"]) == (two["parallel"], "choice")
    sent = [role["sent_bytes"] for role in planned["roles"]]
    # The plan takes every step as one with guidance. At the last of five, rank 1 sends nothing.
    assert sent == [rows[0]["exchanged_bytes"], rows[1]["exchanged_bytes"] * 5 // 4]


def check_trace(trace: dict[str, Any]) -> None:
    """Rank 1 has loaded the transformer before rank 0 had encoded the prompt and sent it."""
    events = trace["traceEvents"]
    names = {e["args"]["name"].split()[-1]: e["pid"] for e in events if e["name"] == "process_name"}
    assert list(names) == ["0", "1"]
    spans = {(e["pid"], e["cat"], e["name"]): e for e in events if e["ph"] == "X"}
    assert (names["0"], "node", "text · text.encode") in spans
    assert (names["1"], "node", "text · text.encode") not in spans
    assert (names["1"], "node", "denoise.predict · denoiser.predict") in spans
    assert (names["1"], "node", "saved · latents.save") not in spans
    waits = spans[names["1"], "waits for", "waits for text"]
    assert spans[names["1"], "prefetch", "model · transformer"]["ts"] < waits["ts"] + waits["dur"]


def test_impossible_runs_start_no_process(file: str, capfd: pytest.CaptureFixture[str]) -> None:
    words = ["exec", file, "--library", rank_toys.__file__, "--device", "cpu"]
    words += ["--processes", "2", "--parallel", "branches=2"]

    def message(*more: str) -> str:
        assert main([*words, *more]) == 2
        return capfd.readouterr().err

    assert "one branch of guidance runs" in message("--set", "denoise.split.scale=1.0")
    assert "`batched: true` of cfg.split puts both branches into one call" in message(
        "--set", "denoise.split.batched=true"
    )
    library = ("gate.uses=cache.library", "gate.Fn_compute_blocks=1", "gate.Bn_compute_blocks=0")
    assert "`cache.library` needs one process" in message(*(word for text in library for word in ("--set", text)))
    assert "branches=2,ulysses=2 is for 4 processes, not for 2" in message("--parallel", "branches=2,ulysses=2")
    assert "--parallel: `rings` is no axis" in message("--parallel", "rings=2")
    assert "--watch runs in one process" in message("--watch")
    assert not Path("outputs").exists()


@pytest.mark.slow
def test_a_clip_of_two_processes_is_reused_with_its_decisions(file: str) -> None:
    words = ["exec", file, "--library", rank_toys.__file__, "--device", "cpu", "--store", "store", "--processes", "2"]
    assert main([*words, "--out", "first"]) == 0
    assert main([*words, "--out", "second"]) == 0
    first, second = (json.loads(Path(folder, "run.json").read_text()) for folder in ("first", "second"))
    assert Path("first", "clip.safetensors").read_bytes() == Path("second", "clip.safetensors").read_bytes()
    assert decisions(first) == decisions(second)
    assert {row["branch"] for row in second["gates"]} == {"positive", "negative"}
    assert all([*(row["reused"] for row in second["gates"]), *(row["stored"] for row in second["gate_totals"])])
    rows = {row["name"]: row for row in second["nodes"]}
    assert rows["text"]["reused"] is rows["denoise"]["reused"] is rows["denoise.predict"]["reused"] is True
    assert rows["denoise.predict"]["calls"] == 0
    assert rows["saved"]["calls"] == rows["file"]["calls"] == 1
    assert len(second["processes"]) == 2
