"""Bundled workflows with cache gates, run: HunyuanVideo on a small random model from disk with each method."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator
from sgd.graph.cli.main import main

ROOT = Path(__file__).parents[2]
SCHEMA = Draft202012Validator(json.loads((ROOT / "docs" / "run.schema.json").read_text()))
STEPS = 12
RATIOS = [1.0] + [0.99 - 0.02 * (step % 3) for step in range(1, STEPS)]
METHODS = {
    "dbcache": "uses: cache.dbcache, with: {threshold: 0.9, warmup_steps: 3}",
    "taylorseer": "uses: cache.taylorseer, with: {threshold: 0.9, warmup_steps: 4, order: 2}",
    "scm": "uses: cache.scm",
    "teacache": "uses: cache.teacache, with: {threshold: 2.0, coefficients: [1, 0]}",
    "magcache": f"uses: cache.magcache, with: {{threshold: 0.1, max_consecutive: 3, ratios: {RATIOS}}}",
    "easycache": "uses: cache.easycache, with: {threshold: 3.0, warmup_steps: 3}",
    "fora": "uses: cache.fora",
    "gate": "uses: cache.gate, with: {rule: change, signal: front, front_blocks: 1, threshold: 0.9, last: true}",
    "library": "uses: cache.library, with: {Fn_compute_blocks: 1, max_warmup_steps: 3, residual_diff_threshold: 0.9}",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    from helpers import tiny_hunyuan_video

    path = tmp_path_factory.mktemp("hunyuan") / "tiny"
    tiny_hunyuan_video.hunyuan_video(num_layers=3, num_single_layers=3).save_pretrained(path)
    return path


def run(arguments, capsys):
    assert main(["exec", *map(str, arguments), "--device", "cpu"]) == 0
    return capsys.readouterr()


@pytest.mark.parametrize("method", METHODS)
def test_hunyuan_video_with_each_method(folder, tmp_path, capsys, method):
    file = tmp_path / "gated.yaml"
    text, exchanged = re.subn(
        r"gate: \{uses: .*\}\n",
        f"gate: {{{METHODS[method]}}}\n",
        (ROOT / "workflows" / "hunyuan_video.yaml").read_text(),
    )
    assert exchanged == 1
    file.write_text(text)
    words = ["prompt=a cat", "width=32", "height=32", "frames=5", f"steps={STEPS}"]
    words += ["--set", f"model.source={folder}", "--set", "model.dtype=float32", "--out", tmp_path / "out"]
    printed = run([file, *words, "--gates"], capsys)
    assert f"gate gate ({method}), transformer, positive" in printed.out
    assert "Traceback" not in printed.err
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    SCHEMA.validate(record)
    for total in record["gate_totals"]:
        assert 0 < total["reused"] < STEPS
        rows = [row for row in record["gates"] if row.get("stack") == total["stack"]]
        assert "".join(str(int(row["computed"])) for row in rows) == total["steps"]
    assert list((tmp_path / "out").glob("*.mp4"))


def test_quickstart_with_a_gate(tmp_path, capsys):
    printed = run(["quickstart_cached", f"steps={STEPS}", "--out", tmp_path / "out", "--gates"], capsys)
    assert "gate gate (taylorseer), transformer, negative" in printed.out
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    SCHEMA.validate(record)
    assert all(total["reused"] > 0 for total in record["gate_totals"])
    assert record["outputs"]["psnr"] > 15


def test_the_graph_shows_the_gate(capsys):
    assert main(["graph", "quickstart_cached"]) == 0
    shown = capsys.readouterr().out
    assert "gate: cache.taylorseer" in shown
    assert "gate <- gate.gate" in shown
