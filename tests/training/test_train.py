"""The training command, end to end with a budget of seconds, and the model that ships."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from adherence import ATTRIBUTES, read
from clips import HELD_OUT, caption, render, sample_clips, to_frames
from evaluate import choose, load, make_clips, score

ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / "workflows" / "models" / "tiny-wan"


def train(out: Path, minutes: str) -> str:
    command = [sys.executable, str(ROOT / "training" / "train.py"), "--out", str(out), "--device", "cpu"]
    for stage in ("vae", "transformer", "decoder"):
        command += [f"--minutes-{stage}", minutes]
    command += ["--text-steps", "2", "--batch-vae", "1", "--batch-transformer", "2", "--pool", "4", "--prompts", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.slow
def test_trains_resumes_and_writes_a_loadable_model(tmp_path):
    first = train(tmp_path, "0.01")
    assert "resumed" not in first
    second = train(tmp_path, "0.03")
    for stage in ("vae", "transformer", "decoder"):
        assert f"{stage}: resumed at step" in second
    pipe = load(tmp_path / "model", "cpu")
    clips = make_clips(pipe, ["a red circle"], steps=2, guidance=4.0)
    assert clips.shape == (1, 17, 96, 96, 3)
    assert (tmp_path / "scores.json").exists()
    for config in (tmp_path / "model").rglob("*.json"):
        assert str(tmp_path) not in config.read_text()


@pytest.fixture(scope="module")
def pipe():
    return load(SHIPPED, "cpu")


def test_shipped_model_is_small_and_clean():
    files = [f for f in SHIPPED.rglob("*") if f.is_file()]
    assert sum(f.stat().st_size for f in files) <= 20_000_000
    assert {f.suffix for f in files} <= {".json", ".safetensors", ".md"}
    for config in SHIPPED.rglob("*.json"):
        assert "_name_or_path" not in config.read_text()


@pytest.mark.slow
def test_reader_agrees_on_reconstructions(pipe):
    clips = sample_clips(16, torch.Generator().manual_seed(21), HELD_OUT)
    video = render(clips)
    with torch.no_grad():
        again = pipe.vae.decode(pipe.vae.encode(video).latent_dist.mode()).sample
    right = [
        all(read(to_frames(v)).matches(**dict(zip(ATTRIBUTES, clips.combo(i), strict=True))).values())
        for i, v in enumerate(again)
    ]
    assert sum(right) >= 15
    error = ((again - video) / 2).square().mean()
    assert -10 * torch.log10(error) > 36


def test_shipped_model_follows_held_out_prompts(pipe):
    combos = choose(4, HELD_OUT)
    clips = make_clips(pipe, [caption(*c) for c in combos], steps=8, guidance=4.0)
    assert score(clips, combos)["attributes"] >= 0.9


@pytest.mark.slow
def test_shipped_model_meets_its_table(pipe):
    combos = choose(48, HELD_OUT)
    table = score(make_clips(pipe, [caption(*c) for c in combos], steps=20, guidance=4.0), combos)
    assert table["attributes"] >= 0.95
    assert table["shape"] >= 0.9
