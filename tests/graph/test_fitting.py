"""Plans for other machines, and the edits that make them fit."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from sgd.graph.cli.main import main

FAMILIES = (
    "wan2_1_t2v",
    "wan2_1_i2v",
    "wan2_2_t2v_a14b",
    "wan2_2_ti2v_5b",
    "hunyuan_video",
    "z_image_turbo",
    "qwen_image",
    "flux_dev",
)

FILE = """sgd: 1
# A comment that stays.
nodes:
  model: {uses: model.load, with: {source: Tongyi-MAI/Z-Image-Turbo, dtype: float32, offload: off}}  # kept
  text: {uses: text.encode, with: {model: $model, prompt: a boat}}
  noise: {uses: latents.noise, with: {model: $model, width: 1024, height: 1024, frames: 1, seed: 0}}
  schedule: {uses: schedule.make, with: {model: $model, steps: 2}}
  denoise:
    uses: sgd:parts/cfg_denoise
    with: {model: $model, text: $text, latents: $noise, schedule: $schedule, scale: 1.0}
  frames: {uses: vae.decode, with: {model: $model, latents: $denoise, tiling: off}}
outputs: {frames: $frames}
"""


def pasted(text: str, printed: str) -> str:
    """A text after the edits that `sgd plan` printed, made as a user makes them: by line numbers, the last first."""
    lines = text.splitlines()
    places = r"^# (?:after line (\d+), add|in place of lines? (\d+)(?: to (\d+))?)$"
    parts = re.split(places, printed, flags=re.MULTILINE)
    edits = [parts[number : number + 4] for number in range(1, len(parts), 4)]
    assert edits, printed
    for after, first, last, new in reversed(edits):
        begin = int(after) if after else int(first) - 1
        end = begin if after else int(last or first)
        lines[begin:end] = new.strip("\n").split("\n\n")[0].split("\n")
    return "\n".join(lines) + "\n"


LONG = pytest.mark.long


@pytest.mark.parametrize(
    "memory",
    [
        pytest.param("8GiB", marks=LONG),
        pytest.param("12GiB", marks=pytest.mark.slow),
        pytest.param("16GiB", marks=LONG),
    ],
)
def test_printed_edits_make_a_plan_fit(memory: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(FILE, encoding="utf-8")
    assert main(["plan", str(file), "--memory", memory]) == 0
    printed = capsys.readouterr().out
    assert "which fits:" in printed
    file.write_text(pasted(FILE, printed), encoding="utf-8")
    assert main(["plan", str(file), "--memory", memory, "--json"]) == 0
    planned = json.loads(capsys.readouterr().out)
    assert planned["fits"] is True
    assert planned["peak_bytes"] <= planned["memory_bytes"]
    assert file.read_text(encoding="utf-8").count("# A comment that stays.") == 1


@pytest.mark.parametrize(
    "option", [["--memory", "2GiB"], ["--card", "RTX 4090"], ["--card", "rtx4090", "--memory", "2GiB"]]
)
def test_a_plan_for_another_machine_needs_no_gpu(option: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "quickstart", *option, "--json"]) == 0
    planned = json.loads(capsys.readouterr().out)
    assert planned["fits"] is True
    assert planned["device"] == "cuda"
    assert planned["memory_bytes"] == (2 << 30 if "--memory" in option else 24564 << 20)


CELLS = [("12GiB", "z_image_turbo"), ("16GiB", "wan2_1_t2v"), ("24GiB", "flux_dev"), ("80GiB", "z_image_turbo")]
"""Cells of the matrix that do not wait for `-m long`."""


def cells() -> Iterator[object]:
    for memory, name in itertools.product(["12GiB", "16GiB", "24GiB", "80GiB"], FAMILIES):
        yield pytest.param(memory, name, marks=pytest.mark.slow if (memory, name) in CELLS else LONG)


@pytest.mark.parametrize(("memory", "name"), cells())
def test_a_workflow_made_for_a_memory_fits_it(
    memory: str, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "mine.yaml"
    code = main(["init", name, "--memory", memory, "--out", str(file)])
    if code == 4:  # nothing fits: the help names a memory that does
        assert not file.exists()
        larger = re.search(r"`--memory (\d+GiB)` fits", capsys.readouterr().err)
        assert larger is not None
        memory = larger[1]
        code = main(["init", name, "--memory", memory, "--out", str(file)])
    assert code == 0
    capsys.readouterr()
    values = {"prompt": "a boat", "image": "sgd:images/boat.png"}
    text = file.read_text(encoding="utf-8")
    inputs = [f"{key}={value}" for key, value in values.items() if f"\n  {key}: {{type: " in text]
    assert main(["plan", str(file), *inputs, "--memory", memory, "--json"]) == 0
    planned = json.loads(capsys.readouterr().out)
    assert planned["fits"] is True


@pytest.mark.parametrize("wrong", ["24", "24GX", "0GiB", "-1GiB", "24GiB extra"])
def test_a_wrong_memory_is_one_message(wrong: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "quickstart", f"--memory={wrong}"]) == 2
    assert f"--memory {wrong}: this is not an amount of memory" in capsys.readouterr().err


def test_an_unknown_card_has_a_suggestion(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "quickstart", "--card", "rtx409"]) == 2
    assert "did you mean `rtx4090`?" in capsys.readouterr().err
