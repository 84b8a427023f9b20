"""`sgd init NAME` copies a bundled workflow; the copy is the same workflow in every folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from helpers.video_files import decoded
from sgd.graph.cli import main
from sgd.graph.compiler.compile import check
from sgd.graph.compiler.ir import Const, Graph
from sgd.graph.contract.workflow_folders import bundled_path, bundled_workflows

NAMES = sorted(file.stem for file in bundled_workflows().glob("*.yaml"))


def calls(graph: Graph | None) -> list[tuple[str, dict[str, Any]]]:
    """The type and the values of every call."""
    assert graph is not None
    return [
        (call.type.name, {n: arg.source.value for n, arg in call.args.items() if isinstance(arg.source, Const)})
        for call in graph.calls()
    ]


@pytest.mark.parametrize("name", NAMES)
def test_a_copy_in_an_empty_folder_is_the_same_workflow(name: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main.main(["init", name]) == 0
    copy, original = check(f"{name}.yaml"), check(bundled_workflows() / f"{name}.yaml")
    assert [d.message for d in copy.diagnostics] == [d.message for d in original.diagnostics]
    assert calls(copy.graph) == calls(original.graph)


def test_the_command_to_try_has_the_inputs_without_a_default(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    tried = {"quickstart": "", "wan2_2_t2v_a14b": " prompt=…"}
    for name, inputs in tried.items():
        assert main.main(["init", name, "--out", f"{name}.yaml"]) == 0
        assert capsys.readouterr().err == f"wrote {name}.yaml; try `sgd exec {name}.yaml{inputs}`\n"


def test_a_copy_keeps_comments_and_layout(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main.main(["init", "quickstart", "--out", "mine.yaml"]) == 0
    copy = Path("mine.yaml").read_text().splitlines()
    original = (bundled_workflows() / "quickstart.yaml").read_text().splitlines()
    changed = [(a, b) for a, b in zip(original, copy, strict=True) if a != b]
    assert [(a.replace("./", "sgd:"), b) for a, b in changed] == [(b, b) for _, b in changed]
    assert len(changed) == 2


def test_init_without_a_name_lists_the_bundled_workflows(capsys) -> None:
    assert main.main(["init"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == NAMES
    assert "small model that comes with sgd" in next(line for line in lines if line.startswith("quickstart "))


def test_a_misspelt_name_is_answered_with_the_nearest(capsys, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main.main(["init", "quikstart"]) == 2
    assert "did you mean `quickstart`?" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ["sgd:../pyproject.toml", "sgd:/etc/passwd", "other-library:x", "sgd:", "sgd", ":x"])
def test_a_bundled_name_never_leads_out_of_the_library(text: str) -> None:
    assert bundled_path(text) is None


def test_a_bundled_name_is_not_looked_up_beside_the_file(tmp_path: Path) -> None:
    (tmp_path / "sgd:images").mkdir()
    (tmp_path / "sgd:images" / "boat.png").write_text("not a picture")
    (tmp_path / "w.yaml").write_text(
        "sgd: 1\nnodes:\n  boat: {uses: image.load, with: {path: sgd:images/boat.png}}\n"
        "  save: {uses: image.save, with: {frames: $boat, path: boat.png}}\noutputs: {x: $save}\n"
    )
    found = check(tmp_path / "w.yaml")
    assert found.diagnostics == []
    (load,) = [values for type, values in calls(found.graph) if type == "image.load"]
    assert load["path"] == bundled_workflows() / "images" / "boat.png"


@pytest.mark.parametrize("name", ["quickstart", "wan2_1_i2v"])
def test_a_copy_does_not_differ_from_the_original(name: str, capsys, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main.main(["init", name, "--out", "mine.yaml"]) == 0
    assert main.main(["diff", name, "mine.yaml", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["changed"], found["added"], found["removed"]) == ({}, {}, {})
    Path("mine.yaml").write_text(Path("mine.yaml").read_text().replace("sgd:models/tiny-wan", "other/name"))
    assert main.main(["diff", name, "mine.yaml", "--json"]) == 0
    assert ("model" in json.loads(capsys.readouterr().out)["changed"]) == (name == "quickstart")


SMALL = [name for name in NAMES if "models/tiny-wan" in (bundled_workflows() / f"{name}.yaml").read_text()]
"""The workflows that run here: those of the model that comes with sgd."""


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_a_copy_runs_where_the_original_runs(name: str, tmp_path: Path, monkeypatch, capfd) -> None:
    monkeypatch.chdir(tmp_path)
    assert main.main(["init", name, "--out", "mine.yaml"]) == 0
    capfd.readouterr()
    for file, out in ((name, "original"), ("mine.yaml", "copy")):
        assert main.main(["exec", file, "steps=1", "--out", out, "--quiet"]) == 0
    # Pixels, not bytes: each file carries the recipe, and the copy's recipe holds the text of the copy.
    saved = [{p.name: decoded(p) for p in Path(out).iterdir() if p.name != "run.json"} for out in ("original", "copy")]
    assert saved[0]
    assert saved[0] == saved[1]
    assert capfd.readouterr().err == "", "loaders print nothing of their own"
