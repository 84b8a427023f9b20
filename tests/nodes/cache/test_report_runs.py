"""The printed text of gates: one list of steps for each run of a loop, whatever was measured."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import sgd
import torch
from sgd.graph.runtime.record_values import clean
from sgd.nodes.cache.decisions_table import report

SCHEMA = jsonschema.Draft202012Validator(
    json.loads((Path(sgd.__file__).parent / "docs" / "run.schema.json").read_text())
)
EMBEDDED = Path(sgd.__file__).parent / "workflows" / "models" / "tiny-wan"
LOOP = """
    carry: {{latents: {latents}}}
    body:
      split: {{uses: cfg.split, with: {{conditioning: $text, scale: 4}}}}
      predict:
        uses: denoiser.predict
        with: {{model: $model, latents: $latents, step: $step, branches: $split, gate: $gate}}
      guide: {{uses: cfg.merge, with: {{predictions: $predict, branches: $split}}}}
      next: {{uses: schedule.step, with: {{schedule: $schedule, step: $step, latents: $latents, velocity: $guide}}}}
    yield: {{latents: $next}}
"""
HEAD = f"""
sgd: 1
name: loops
nodes:
  model: {{uses: model.load, with: {{source: {EMBEDDED}}}}}
  text: {{uses: text.encode, with: {{model: $model, prompt: a large red circle, max_length: 32}}}}
  schedule: {{uses: schedule.make, with: {{model: $model, steps: 8}}}}
  gate: {{uses: cache.dbcache, with: {{threshold: 0.4, warmup_steps: 2}}}}
"""
NOISE = "noise: {{uses: latents.noise, with: {{model: $model, width: 32, height: 32, frames: 5, seed: {seed}}}}}"


def steps_of(text: str) -> list[tuple[str, str]]:
    """Headings, and the digits that the lines under each spell: 1 computed, 0 reused."""
    found: list[tuple[str, str]] = []
    for line in text.splitlines():
        if not line.startswith(" "):
            found.append((line, ""))
            continue
        numbers = [int(n) for n in re.findall(r"\d+", line[:16])]
        digit = "1" if "computed" in line else "0"
        found[-1] = (found[-1][0], found[-1][1] + digit * (numbers[-1] - numbers[0] + 1))
    return found


def test_two_loops_with_one_gate_are_told_apart(tmp_path):
    first = "  denoise:\n    for: {step: $schedule}" + LOOP.format(latents="$noise")
    second = "  again:\n    for: {step: $schedule}" + LOOP.format(latents="$denoise")
    noise = f"  {NOISE.format(seed=0)}\n"
    file = tmp_path / "loops.yaml"
    file.write_text(HEAD + noise + first + second + "outputs: {latents: $again}\n")
    record = sgd.run(sgd.compile(file), out=tmp_path / "out").record
    totals = record["gate_totals"]
    assert [total["node"] for total in totals] == ["denoise.predict"] * 2 + ["again.predict"] * 2
    assert totals[0]["steps"] != totals[2]["steps"], "the loops decide differently, else this test says nothing"
    told = steps_of(report(record))
    assert [steps for _, steps in told] == [total["steps"] for total in totals]
    assert all(total["node"] in head and "run " not in head for total, (head, _) in zip(totals, told, strict=True))


def test_each_run_of_a_loop_has_its_own_steps(tmp_path):
    inner = (
        "      denoise:\n        for: {step: $schedule}"
        + LOOP.format(latents="$noise").replace("\n", "\n    ").rstrip()
        + "\n"
    )
    loop = f"  clips:\n    for: {{seed: [0, 1, 2]}}\n    body:\n      {NOISE.format(seed='$seed')}\n{inner}"
    file = tmp_path / "clips.yaml"
    file.write_text(HEAD + loop + "    yield: {latents: $denoise}\noutputs: {latents: $clips}\n")
    record = sgd.run(sgd.compile(file), out=tmp_path / "out").record
    told = steps_of(report(record))
    assert [steps for _, steps in told] == [total["steps"] for total in record["gate_totals"]]
    assert len({steps for _, steps in told}) > 1, "the clips decide differently, else this test says nothing"
    assert [re.findall(r"run (\d) of (\d)", head)[0] for head, _ in told] == [
        (number, "3") for number in "123" for _ in ("positive", "negative")
    ]


def test_clips_of_a_batch_are_told_apart(tmp_path):
    """Decisions of each clip and branch, in the record and in the table."""
    batch = NOISE.format(seed="[0, 1], batch: 2")
    head = HEAD.replace("prompt: a large red circle", "prompt: [a large red circle, a small blue square]")
    loop = "  denoise:\n    for: {step: $schedule}" + LOOP.format(latents="$noise").replace(
        "scale: 4}", "scale: 4, batched: true}"
    )
    file = tmp_path / "batch.yaml"
    file.write_text(head + f"  {batch}\n" + loop + "outputs: {latents: $denoise}\n")
    record = sgd.run(sgd.compile(file), out=tmp_path / "out").record
    SCHEMA.validate(record)
    totals = record["gate_totals"]
    assert [(total["branch"], total["clip"]) for total in totals] == [
        (branch, clip) for branch in ("positive", "negative") for clip in (0, 1)
    ]
    for total in totals:
        rows = [row for row in record["gates"] if (row["branch"], row["clip"]) == (total["branch"], total["clip"])]
        assert "".join(str(int(row["computed"])) for row in rows) == total["steps"]
    assert len({total["steps"] for total in totals}) > 1, "the clips decide differently, else this test says nothing"
    told = steps_of(report(record))
    assert [steps for _, steps in told] == [total["steps"] for total in totals]
    assert [head.split(": ")[0].split(", ")[2:] for head, _ in told] == [
        [branch, f"clip {clip}"] for branch in ("positive", "negative") for clip in (0, 1)
    ]


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_numbers_that_are_not_finite_are_printed(value):
    """The record holds it as text, because JSON has no such numbers."""
    decision = {"gate": "g", "component": "t", "branch": "positive", "step": 0, "computed": True, "reason": "rule"}
    decision |= {"distance": value, "threshold": 0.1}
    total: dict[str, Any] = {"gate": "g", "component": "t", "branch": "positive", "method": "dbcache", "stack": None}
    total |= {"computed": 1, "reused": 0, "ratio": 0.0, "steps": "1"}
    record = json.loads(json.dumps(clean({"gates": [decision], "gate_totals": [total]}), allow_nan=False))
    assert f"rule        {value:g} >= 0.1" in report(record)


def test_a_model_that_overflows_is_said_to(tmp_path, monkeypatch):
    file = tmp_path / "loops.yaml"
    loop = "  denoise:\n    for: {step: $schedule}" + LOOP.format(latents="$noise")
    file.write_text(HEAD + f"  {NOISE.format(seed=0)}\n" + loop + "outputs: {latents: $denoise}\n")
    from diffusers.models.transformers.transformer_wan import WanTransformerBlock

    forward = WanTransformerBlock.forward
    monkeypatch.setattr(WanTransformerBlock, "forward", lambda *a, **k: forward(*a, **k) * torch.tensor(math.inf))
    run = sgd.run(sgd.compile(file), out=tmp_path / "out", options={"no_check_finite": True})
    assert any("no measured change is a finite number" in warning for warning in run.record["warnings"])
    assert "nan >= 0.4" in report(run.record)


@pytest.mark.parametrize(
    "options",
    [
        "cache_type: DBPrune, Fn_compute_blocks: 1, residual_diff_threshold: 0.4, max_warmup_steps: 2",
        "Fn_compute_blocks: 1, residual_diff_threshold: 0.9, max_warmup_steps: 2, max_continuous_cached_steps: 1",
        "Fn_compute_blocks: 1, residual_diff_threshold: 0.9, steps_computation_mask: [1, 1, 0, 0, 1, 0, 0, 1]",
    ],
)
def test_decisions_of_the_package_stand_in_record_and_table(tmp_path, options):
    file = tmp_path / "library.yaml"
    loop = "  denoise:\n    for: {step: $schedule}" + LOOP.format(latents="$noise")
    head = HEAD.replace("cache.dbcache, with: {threshold: 0.4, warmup_steps: 2}", f"cache.library, with: {{{options}}}")
    file.write_text(head + f"  {NOISE.format(seed=0)}\n" + loop + "outputs: {latents: $denoise}\n")
    record = sgd.run(sgd.compile(file), out=tmp_path / "out").record
    SCHEMA.validate(record)
    assert any(total["reused"] for total in record["gate_totals"]), "else this test says little"
    lines = [line for line in report(record).splitlines() if line.startswith("  ")]
    for line in lines:
        # The reason ends where two spaces, one space and a number, or the line do.
        assert re.fullmatch(r"  steps? [\d to]+ +(computed|reused) +[a-z0-9 -]+?( +[\d. e-]+ (<|>=) [\d.]+)?", line), (
            line
        )
