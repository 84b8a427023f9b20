"""`sgd tune` on the small model that comes with sgd: the file, the table, what a person does wrong, and interrupts."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from sgd.graph.cli import main
from sgd.graph.contract.workflow_folders import bundled_workflows
from sgd.nodes.cache.tuning.tune import Tuning

MODELS = bundled_workflows() / "models"
TEXT = """sgd: 1
name: small
inputs:
  prompt: {type: str, default: a red circle}
nodes:
  model: {uses: model.load, with: {source: SOURCE}}
  text: {uses: text.encode, with: {model: $model, prompt: $prompt, max_length: 32}}
  noise: {uses: latents.noise, with: {model: $model, width: 32, height: 32, frames: 5}}
  schedule: {uses: schedule.make, with: {model: $model, steps: 6}}
  # The gate chooses the steps that are reused.
  gate: {uses: cache.none}  # none yet
  loop:
    for: {step: $schedule}
    carry: {state: $noise}
    body:
      split: {uses: cfg.split, with: {conditioning: $text, scale: 4}}
      predict:
        uses: denoiser.predict
        with: {model: $model, latents: $state, step: $step, branches: $split, gate: $gate}
      guide: {uses: cfg.merge, with: {predictions: $predict, branches: $split}}
      next: {uses: schedule.step, with: {schedule: $schedule, step: $step, latents: $state, velocity: $guide}}
    yield: {state: $next}
  frames: {uses: vae.decode, with: {model: $model, latents: $loop}}
  grid: {uses: frames.grid, with: {frames: $frames}}
  image: {uses: image.save, with: {frames: $grid, path: sheet.png}}
outputs: {image: $image}
""".replace("SOURCE", str(MODELS / "tiny-wan"))
PROMPTS = [
    f"a large {colour} {shape}" for colour in ("red", "green", "blue", "white") for shape in ("circle", "square")
]


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prompts.txt").write_text("\n".join(PROMPTS))
    path = tmp_path / "small.yaml"
    path.write_text(TEXT)
    return path


def tune(*words: str) -> int:
    return main.main(["tune", "small.yaml", "--prompts", "prompts.txt", *words])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--psnr", "x"], "--psnr x: not a number"),
        (["--psnr", "0"], "--psnr 0: a PSNR is above 0 and at most 100 dB"),
        (["--psnr", "40", "--budget", "0"], "--budget 0: a budget is a number of seconds above 0"),
        (["--psnr", "40", "prompt=x"], "prompt is given twice"),
        (["--psnr", "40", "--prompts", "few.txt"], "2 different prompts, and a plan needs 8: 4 to measure with"),
        (["--psnr", "40", "--input", "text"], "has no input `text`"),
    ],
)
def test_errors_come_before_the_first_run(file, capsys, words, message):
    Path("few.txt").write_text("a\nb\na\n")
    assert tune(*words) == 2
    assert message in capsys.readouterr().err
    assert file.read_text() == TEXT


def test_a_bundled_workflow_is_not_changed(file, capsys):
    assert main.main(["tune", "quickstart", "--prompts", "prompts.txt", "--psnr", "40"]) == 2
    assert "make a copy of your own first: `sgd init quickstart`" in capsys.readouterr().err


def test_a_gate_in_a_part_of_another_file_is_not_changed(file, capsys):
    file.write_text("""sgd: 1
inputs: {prompt: {type: str, default: a red circle}}
nodes: {whole: {uses: ./inner.yaml, with: {prompt: $prompt}}}
outputs: {image: $whole}
""")
    Path("inner.yaml").write_text(TEXT.replace("default: a red circle", "about: The clip."))
    assert tune("--psnr", "40") == 2
    found = capsys.readouterr().err
    assert "`whole.gate` does not stand in this file" in found
    assert "make a copy of your own first: `sgd init NAME`" in found


def test_a_workflow_without_a_gate_says_how_to_add_one(file, capsys):
    file.write_text(TEXT.replace(", gate: $gate", ""))
    assert tune("--psnr", "40") == 2
    assert "add a node `gate: {uses: cache.none}`" in capsys.readouterr().err


def test_inputs_that_lose_their_effect_are_named(file, capsys, monkeypatch):
    monkeypatch.setattr(Tuning, "run", lambda tuning: tuning.replace_gate() or 0)
    gate = "{uses: cache.fora, with: {every: $every, warmup_steps: $both}}"
    inputs = "\n  every: {type: int, default: 3}\n  both: {type: int, default: 6}\nnodes:"
    written = TEXT.replace("\nnodes:", inputs).replace("{uses: cache.none}", gate).replace("steps: 6", "steps: $both")
    file.write_text(written)
    assert tune("--psnr", "35") == 0
    (told,) = [line for line in capsys.readouterr().err.splitlines() if "not read any more" in line]
    assert told.startswith("warning: the input `every` is not read any more and has no effect: ")
    assert told.endswith("remove it from small.yaml, or leave it there")
    assert "cache.tuned" in file.read_text()
    assert tune("--psnr", "36") == 0
    assert "not read any more" not in capsys.readouterr().err


@pytest.mark.slow
def test_the_file_keeps_the_psnr_and_all_its_other_bytes(file, capsys):
    assert tune("--psnr", "35,60") == 0
    told = capsys.readouterr()
    assert "steps are computed" in told.out
    tried = [line for line in told.err.splitlines() if "steps computed:" in line]
    assert len(set(tried)) == len(tried)
    assert file.read_text() == TEXT.replace(
        "{uses: cache.none}", '{uses: cache.tuned, with: {table: "./small-tuned.json", psnr: 35}}'
    )
    table = json.loads(Path("small-tuned.json").read_text())
    plans = table["schedules"][0]["plans"]
    kept = {plan["mask"]: min(plan["psnr"]["worst"], plan["psnr"]["bound"]) for plan in plans}
    assert any(psnr >= 35 and "0" in mask for mask, psnr in kept.items())
    assert not set(table["schedules"][0]["measured"]) & set(table["schedules"][0]["chosen"])
    assert not list(Path().glob(".*progress"))
    assert main.main(["check", "small.yaml"]) == 0
    # Its fidelity on a prompt that it was chosen with, by another way: `sgd diff` of the pictures.
    fewest = min((mask for mask, psnr in kept.items() if psnr >= 35), key=lambda mask: mask.count("1"))
    assert main.main(["exec", "small.yaml", f"prompt={PROMPTS[1]}", "--out", "tuned"]) == 0
    record = json.loads(Path("tuned/run.json").read_text())
    assert any(fewest in json.dumps(gate) for gate in record["gates"]) or fewest in json.dumps(record)


@pytest.mark.slow
def test_an_interrupted_command_goes_on(file):
    words = [
        sys.executable,
        "-m",
        "sgd.graph.cli.main",
        "tune",
        "small.yaml",
        "--prompts",
        "prompts.txt",
        "--psnr",
        "35",
    ]
    began = subprocess.Popen(words, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    kept = Path(".small-tuned.json.progress")
    while not (kept.exists() and json.loads(kept.read_text())["tunings"][0]["gains"]):
        assert began.poll() is None, began.communicate()
        time.sleep(0.2)
    began.send_signal(signal.SIGINT)
    assert began.wait(60) == 3
    (before,) = json.loads(kept.read_text())["tunings"]
    assert file.read_text() == TEXT
    again = subprocess.run(words, capture_output=True, text=True, env=os.environ, check=True)
    left = 2 * 4 - sum(len(found) for found in before["gains"].values())
    assert f"0 runs to measure velocities, {left} to see" in again.stderr
    assert "cache.tuned" in file.read_text()
