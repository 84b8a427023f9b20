"""A real run, its recipe, and the same run from its clip: equal bytes, and hashes of what was read."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import sgd
from sgd.graph.cli.main import main

WORKFLOWS = Path(sgd.__file__).parent / "workflows"
FILES = ("clip.mp4", "sheet.png")


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.slow
def test_the_small_model_makes_equal_bytes_anywhere(tmp_path, monkeypatch, capsys):
    for folder in ("a", "deep/er"):
        shutil.copytree(WORKFLOWS, tmp_path / folder / "w")
        (tmp_path / folder / "w" / "quickstart.yaml").rename(tmp_path / folder / "w" / "mine.yaml")
    monkeypatch.chdir(tmp_path)
    assert main(["exec", "a/w/mine.yaml", "steps=2", "--quiet", "--out", "one"]) == 0
    words = ["exec", "mine.yaml", "seed=0", "steps=2", "--quiet", "--out", "../../../two"]
    # In another process, where hashes of texts are others.
    subprocess.run([sys.executable, "-m", "sgd", *words], cwd=tmp_path / "deep" / "er" / "w", check=True)
    monkeypatch.chdir(tmp_path)
    for name in FILES:
        assert Path("one", name).read_bytes() == Path("two", name).read_bytes()
    recipe = json.loads(Path("one/run.json").read_text())["recipe"]
    assert recipe == json.loads(Path("two/run.json").read_text())["recipe"]
    assert str(tmp_path) not in json.dumps(recipe)
    for each in recipe["weights"]:
        assert each["source"] == "tiny-wan"
        assert each["sha256"] == digest(WORKFLOWS / "models" / "tiny-wan" / each["name"])
    names = {each["name"] for each in recipe["weights"]}
    used = {"transformer", "vae", "text_encoder"}
    assert {f"{part}/config.json" for part in used} | {"tokenizer/tokenizer.json", "model_index.json"} <= names
    assert {name.split("/")[0] for name in names if name.endswith(".safetensors")} == used

    monkeypatch.chdir(tmp_path / "a" / "w")
    capsys.readouterr()
    assert main(["replay", str(tmp_path / "two" / "clip.mp4"), "--quiet", "--out", "new"]) == 0
    assert "bit-equal" in capsys.readouterr().out
    for name in FILES:
        assert Path("new", name).read_bytes() == (tmp_path / "one" / name).read_bytes()

    assert main(["exec", str(tmp_path / "one" / "sheet.png"), "--weights", "dummy", "--quiet", "--out", "dummy"]) == 0
    recipe = json.loads(Path("dummy/run.json").read_text())["recipe"]
    assert recipe["options"] == {"weights": "dummy"}
    assert "weights" not in recipe
