"""`sgd calibrate` on the model that comes with sgd, and workflows whose gates take its table."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import in_process
from sgd.nodes.cache.calibration.table import read
from sgd.nodes.models.repository import fingerprint

pytestmark = pytest.mark.slow  # one plan or calibration at full size serves several tests

FOLDER = Path(__file__).parents[2] / "workflows"
SMALL = ["--set", "noise.width=32", "--set", "noise.height=32", "--set", "noise.frames=5"]
STEPS = 8
PROMPTS = ["a large red circle moving right on a blue background", "a small green square growing on white"]
GATE = "  gate: {{uses: cache.{kind}, with: {{table: tables/t.json, threshold: {threshold}}}}}\n"


def sgd(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    done = in_process.sgd(*arguments, cwd=cwd)
    assert "Traceback" not in done.stderr, done.stderr
    return done


def gated(folder: Path, kind: str, threshold: float) -> Path:
    """The quickstart with a gate that takes the table beside it."""
    text = (FOLDER / "quickstart.yaml").read_text()
    text = "\n".join(line for line in text.splitlines() if not line.startswith("  gate:")) + "\n"
    text = text.replace(", gate: $gate}", "}")
    text = text.replace("nodes:\n", "nodes:\n" + GATE.format(kind=kind, threshold=threshold))
    text = text.replace("schedule: $schedule, scale: $scale", "schedule: $schedule, scale: $scale, gate: $gate")
    file = folder / f"{kind}.yaml"
    file.write_text(text)
    assert "gate: $gate" in text
    return file


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder with the quickstart's parts and model, workflows, and a table made for them."""
    folder = tmp_path_factory.mktemp("calibrated")
    for part in ("parts", "models"):
        (folder / part).symlink_to(FOLDER / part)
    (folder / "tables").mkdir()
    (folder / "prompts.txt").write_text("\n".join(PROMPTS))
    # The workflow names the table that is about to be made.
    file = gated(folder, "teacache", 0.3)
    done = sgd(
        "calibrate",
        str(file),
        f"steps={STEPS}",
        "--prompts",
        "prompts.txt",
        "--out",
        "tables/t.json",
        *SMALL,
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr
    assert "prompt 2 of 2" in done.stderr
    assert "cache.teacache: of 8 steps, a threshold of" in done.stdout
    assert {p.name for p in folder.iterdir()} == {"parts", "models", "tables", "prompts.txt", "teacache.yaml"}
    gated(folder, "magcache", 0.1)
    return folder


@pytest.fixture(scope="module")
def table(folder):
    return json.loads((folder / "tables" / "t.json").read_text())


def test_the_table_says_where_it_is_from(folder, table):
    assert read(folder / "tables" / "t.json")
    assert table["prompts"]["texts"] == PROMPTS
    assert (table["prompts"]["count"], table["prompts"]["loops"]) == (2, 2)
    assert table["model"]["family"] == "wan"
    assert table["size"] == [32, 32, 5]
    assert table["schedule"]["steps"] == STEPS
    assert set(table["made"]) >= {"sgd", "torch", "diffusers", "date", "workflow", "device"}
    part = table["components"]["transformer"]
    assert part["weights"] == fingerprint.of_weights(FOLDER / "models/tiny-wan/transformer", None)
    assert set(part["polynomials"]) == {"time", "time_projection", "modulated"}
    # Two prompts, two branches, all steps but the first.
    assert {fit["points"] for fit in part["polynomials"].values()} == {2 * 2 * (STEPS - 1)}


def by_formula(part, threshold: float) -> str:
    """TeaCache's rule (2411.19108) on the table's own changes of the time embedding."""
    coefficients, digits, accumulated = part["polynomials"]["time"]["coefficients"], "1", 0.0
    for change in part["branches"]["positive"]["changes"]["time"][1:-1]:
        accumulated += sum(c * change**p for p, c in enumerate(reversed(coefficients)))
        digits += str(int(accumulated >= threshold))
        accumulated = 0.0 if digits[-1] == "1" else accumulated
    return digits + "1"


def test_the_gate_follows_the_table_from_any_folder(folder, table, tmp_path):
    expected = by_formula(table["components"]["transformer"], 0.3)
    assert 0 < expected.count("0") < STEPS - 2
    planned = sgd("plan", str(folder / "teacache.yaml"), f"steps={STEPS}", *SMALL, cwd=tmp_path)
    assert planned.returncode == 0, planned.stderr
    assert f"computed {expected}" in planned.stdout
    out = str(tmp_path / "out")
    done = sgd("exec", str(folder / "teacache.yaml"), f"steps={STEPS}", "--json", "--out", out, *SMALL, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    totals = json.loads(done.stdout)["gate_totals"]
    assert {total["branch"]: total["steps"] for total in totals} == {"positive": expected, "negative": expected}


@pytest.mark.parametrize("kind", ["teacache", "magcache"])
@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["steps=9"], "tables/t.json was made for 8 steps, and the loop has 9"),
        (["steps=8", "--set", "schedule.scheduler=unipc"], "and the workflow uses UniPCMultistepScheduler"),
        (["steps=8", "--set", "schedule.shift=2"], "made for a shift of 3, and the workflow has 2"),
        (["steps=8", "--set", "model.source=other"], "made for other weights of transformer"),
        (["steps=8", "--set", "gate.table=tables/none.json"], "cannot read the table tables/none.json"),
        (["steps=8", "--set", "gate.table=prompts.txt"], "prompts.txt is not a table"),
    ],
    ids=["steps", "scheduler", "shift", "weights", "missing", "none"],
)
def test_a_table_for_something_else_is_refused_before_anything_loads(folder, capsys, monkeypatch, kind, words, says):
    from safetensors.torch import load_file, save_file
    from sgd.graph.cli import main

    other = folder / "other"
    if not other.exists():
        shutil.copytree(FOLDER / "models" / "tiny-wan", other)
        weights = other / "transformer" / "diffusion_pytorch_model.safetensors"
        tensors = load_file(weights)
        next(iter(tensors.values())).view(-1)[0] += 1
        save_file(tensors, weights)
    monkeypatch.chdir(folder)
    code = main.main(["plan", f"{kind}.yaml", *words, *SMALL])
    out, err = capsys.readouterr()
    assert (code, out) == (2, "")
    assert err.count("error[bad-value]") == 1
    assert says in err


def test_a_table_that_is_not_there_is_shown_where_it_is_named(folder):
    file = folder / "missing.yaml"
    file.write_text((folder / "teacache.yaml").read_text().replace("tables/t.json", "tables/none.json"))
    done = sgd("check", "missing.yaml", cwd=folder)
    file.unlink()
    assert done.returncode == 2
    line = next(n for n, text in enumerate(gated_lines(folder), 1) if "cache.teacache" in text)
    assert f"missing.yaml:{line}:" in done.stderr


def gated_lines(folder: Path) -> list[str]:
    return (folder / "teacache.yaml").read_text().splitlines()


def test_a_table_needs_a_threshold(folder):
    file = folder / "bare.yaml"
    file.write_text((folder / "teacache.yaml").read_text().replace(", threshold: 0.3", ""))
    done = sgd("plan", "bare.yaml", f"steps={STEPS}", cwd=folder)
    file.unlink()
    assert done.returncode == 2
    assert "has no threshold" in done.stderr


def test_checking_a_gate_with_a_table_imports_no_torch(folder):
    lines = [
        "import sys",
        "from sgd.graph.compiler.compile import check",
        f"found = check({str(folder / 'teacache.yaml')!r})",
        # 20 steps, by default: the table was read, and refused.
        "assert ['8 steps' in d.message for d in found.errors] == [True], found.errors",
        "assert 'torch' not in sys.modules",
    ]
    done = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_a_workflow_of_two_models_makes_no_table(tmp_path):
    """The second denoise loop's schedule is another; nothing is written."""
    for part in ("parts", "models"):
        (tmp_path / part).symlink_to(FOLDER / part)
    text = gated_text()
    (tmp_path / "two.yaml").write_text(text)
    done = sgd("calibrate", "two.yaml", "steps=2", "--order", "1", *SMALL, cwd=tmp_path)
    assert done.returncode == 2
    assert "another model, schedule, size or LoRA" in done.stderr
    assert not list(tmp_path.glob("*.json"))


def gated_text() -> str:
    text = (FOLDER / "quickstart.yaml").read_text()
    second = [
        "  short: {uses: schedule.make, with: {model: $model, steps: 3}}",
        "  again: {uses: ./parts/cfg_denoise.yaml, with: {model: $model, text: $text, latents: $noise, "
        "schedule: $short, scale: $scale}}",
        "  kept: {uses: latents.save, with: {latents: $again, path: again.safetensors}}",
    ]
    return text.replace("nodes:\n", "nodes:\n" + "\n".join(second) + "\n").replace(
        "outputs: {", "outputs: {kept: $kept, "
    )


EXPERTS = """sgd: 1
name: experts
inputs: {{prompt: {{type: str, default: a boat}}, steps: {{type: int, default: 10}}}}
nodes:
  above: {{uses: model.load, with: {{source: ./wan22, dtype: float32}}}}
  below: {{uses: model.expert, with: {{model: $above, component: transformer_2}}}}
  text: {{uses: text.encode, with: {{model: $above, prompt: $prompt, max_length: 16}}}}
  noise: {{uses: latents.noise, with: {{model: $above, width: 32, height: 32, frames: 5}}}}
  schedule: {{uses: schedule.make, with: {{model: $above, steps: $steps}}}}
  {gate}
  denoise:
    uses: ./parts/experts_denoise.yaml
    with:
      {{above: $above, below: $below, boundary: 0.8, text: $text, latents: $noise, schedule: $schedule,
        scale: 5.0, scale_below: 4.0{more}}}
  saved: {{uses: latents.save, with: {{latents: $denoise, path: l.safetensors}}}}
outputs: {{saved: $saved}}
"""


@pytest.mark.slow
def test_two_experts_have_one_table_with_a_part_for_each(tmp_path):
    from helpers import tiny

    tiny.save("wan", tmp_path / "wan22", layers=3, experts=2, boundary_ratio=0.8)
    (tmp_path / "parts").symlink_to(FOLDER / "parts")
    (tmp_path / "plain.yaml").write_text(EXPERTS.format(gate="", more=""))
    done = sgd("calibrate", "plain.yaml", "--order", "1", "--out", "t.json", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    parts = json.loads(done.stdout)["components"]
    assert set(parts) == {"transformer", "transformer_2"}
    counts = {name: len(part["timesteps"]) for name, part in parts.items()}
    assert sum(counts.values()) == 10
    assert min(counts.values()) > 1
    gate = "gate: {uses: cache.magcache, with: {table: t.json, threshold: 1e9, retention: 0}}"
    (tmp_path / "gated.yaml").write_text(EXPERTS.format(gate=gate, more=", gate: $gate"))
    done = sgd("exec", "gated.yaml", "--json", "--out", "out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    totals = json.loads(done.stdout)["gate_totals"]
    for component, count in counts.items():
        steps = {total["steps"] for total in totals if total["component"] == component}
        assert steps == {"1" + "0" * (count - 1)}
    refused = sgd("check", "gated.yaml", "--json", cwd=tmp_path)
    assert refused.returncode == 0
    (tmp_path / "other.yaml").write_text(EXPERTS.format(gate=gate, more=", gate: $gate").replace("0.8", "0.7"))
    # The steps of an expert are known when the timesteps are.
    done = sgd("plan", "other.yaml", cwd=tmp_path)
    assert done.returncode != 0
    assert "steps of transformer" in done.stderr
