"""Loops that no tuned gate can work in: `sgd check` and `sgd tune` say so before anything is loaded."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from sgd.graph.cli import main
from sgd.graph.compiler.compile import check
from sgd.graph.contract.workflow_folders import bundled_workflows
from sgd.graph.language.literals import Given

CASES = {
    "experts": ("wan2_2_t2v_a14b", {"schedule.scheduler": "euler"}, "here two share the steps"),
    "norm": ("qwen_image", {}, "guidance of this family scales the velocity by its norm"),
    "scheduler": ("wan2_1_t2v", {}, "needs Euler's step, and the workflow uses UniPC"),
    "guider": ("quickstart", {"denoise.loop.split.guider": "apg"}, "the guider `apg` is not linear"),
    "start": ("quickstart", {"denoise.loop.split.start": "0.2"}, "some steps are guided and others are not"),
    "stop": ("quickstart", {"denoise.loop.split.stop": "0.9"}, "some steps are guided and others are not"),
}


@pytest.fixture(params=list(CASES.values()), ids=list(CASES))
def case(request, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[dict[str, str], str]:
    name, settings, message = request.param
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert main.main(["init", name, "--out", "w.yaml"]) == 0
    return settings, message


def given(value: str) -> Given:
    return Given(value, True, Path.cwd())


def test_check_says_why(case):
    settings, message = case
    text = Path("w.yaml").read_text()
    table = bundled_workflows() / "tables" / "quickstart_tuned.json"
    gate = f"gate: {{uses: cache.tuned, with: {{table: {table}, psnr: 38}}}}"
    Path("w.yaml").write_text(re.sub(r"gate: \{uses: cache\..*", gate, text, count=1))
    (found,) = check("w.yaml", None, {path: given(value) for path, value in settings.items()}).errors
    assert (found.code, message in found.message) == ("unsupported", True)


def test_tune_says_why_before_it_loads(case, capsys):
    settings, message = case
    Path("prompts.txt").write_text("\n".join(f"prompt {number}" for number in range(8)))
    before = Path("w.yaml").read_bytes()
    words = [word for path, value in settings.items() for word in ("--set", f"{path}={value}")]
    assert main.main(["tune", "w.yaml", "--psnr", "38", "--prompts", "prompts.txt", *words]) == 2
    found = capsys.readouterr().err
    assert message in found
    assert "unsupported" in found
    assert "loading" not in found
    assert Path("w.yaml").read_bytes() == before


@pytest.mark.parametrize(
    ("scale", "start", "stop"),
    [
        ("4", "0.01", "1"),  # less than one of 50 steps
        ("4", "0.2", "0.2"),
        ("1", "0.2", "1"),
    ],
)
def test_guidance_at_all_steps_or_at_none_is_fine(scale, start, stop):
    settings = {f"denoise.loop.split.{name}": given(value) for name, value in (("start", start), ("stop", stop))}
    assert not check("quickstart_tuned", {"scale": given(scale)}, settings).errors
