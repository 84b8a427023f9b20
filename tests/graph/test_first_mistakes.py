"""Mistakes of a first edit: each has one help line that says what to write."""

from __future__ import annotations

from pathlib import Path

import pytest
from sgd.graph.cli.bundled_copy import portable_copy
from sgd.graph.cli.main import main
from sgd.graph.compiler.compile import check, compile
from sgd.graph.contract.diagnostics import Diagnostic
from sgd.graph.contract.errors import Problems
from sgd.graph.contract.workflow_folders import bundled_workflows

FILE = """sgd: 1
inputs:
  steps: {type: int, default: 3}
nodes:
  model: {uses: model.load, with: {source: sgd:models/tiny-wan}}
  text: {uses: text.encode, with: {model: $model, prompt: a boat}}
  noise: {uses: latents.noise, with: {model: $model, width: 96, height: 96, frames: 17, seed: 0}}
  schedule: {uses: schedule.make, with: {model: $model, steps: $steps}}
  denoise:
    for: {step: $schedule}
    carry: {latents: $noise}
    body:
      split: {uses: cfg.split, with: {conditioning: $text, scale: 3.0}}
      velocity: {uses: denoiser.predict, with: {model: $model, latents: $latents, step: $step, branches: $split}}
      guided: {uses: cfg.merge, with: {predictions: $velocity, branches: $split}}
      next: {uses: schedule.step, with: {schedule: $schedule, step: $step, latents: $latents, velocity: $guided}}
    yield: {latents: $next}
  frames: {uses: vae.decode, with: {model: $model, latents: $denoise}}
outputs: {frames: $frames}
"""


def problems(tmp_path: Path, old: str, new: str) -> list[Diagnostic]:
    assert FILE.count(old) == 1
    file = tmp_path / "mine.yaml"
    file.write_text(FILE.replace(old, new), encoding="utf-8")
    return check(file).errors


def test_the_file_without_mistakes_has_no_problem(tmp_path: Path) -> None:
    assert problems(tmp_path, "a boat", "a ship") == []


@pytest.mark.parametrize(
    ("old", "new", "help"),
    [
        # A forgotten `$`, also of an input, of a port, in full width, and with a name that does not exist.
        ("{model: $model, latents: $denoise}", "{model: model, latents: $denoise}", "did you mean `$model`?"),
        ("steps: $steps", "steps: steps", "did you mean `$steps`?"),
        ("latents: $denoise", "latents: denoise.latents", "did you mean `$denoise.latents`?"),
        ("latents: $denoise", "latents: ＄denoise", "did you mean `$denoise`?"),
        ("conditioning: $text", "conditioning: txt", "did you mean `$text`?"),
        # Likeness and type: `nois` is like `noise`, but a model is wanted; the only conditioning is `text`.
        ("{model: $model, latents: $denoise}", "{model: $mod, latents: $denoise}", "did you mean `$model`?"),
        ("conditioning: $text", "conditioning: $prompt", "did you mean `$text`?"),
        # A node in a loop, read from outside.
        ("latents: $denoise", "latents: $denoise.velocity", "read what the loop yields, `$denoise.latents`"),
        ("latents: $denoise", "latents: $next", "`next` is inside loop `denoise`: read `$denoise.latents`"),
        ("latents: $denoise", "latents: $guided", "read what the loop yields, `$denoise.latents`"),
        ("latents: $denoise", "latents: $denoise.next.latents", "read what the loop yields, `$denoise.latents`"),
        # Letters that look like ASCII.
        ("steps: $steps", "ｓteps: $steps", "did you mean `steps`, in ASCII letters?"),
        ("model: $model, latents: $denoise", "model: $modèl, latents: $denoise", "write `$model`, in ASCII letters"),
        ("  frames: {uses", "  framés: {uses", "write `frames`, in ASCII letters"),
        ("outputs: {frames: $frames}", "ｏutputs: {frames: $frames}", "did you mean `outputs`, in ASCII letters?"),
        ("  frames: {uses", "  frames： {uses", "write `:` for `：`"),
        ("width: 96, height", "width: 96， height", "write `,` for `，`"),
    ],
)
def test_the_help_says_what_to_write(old: str, new: str, help: str, tmp_path: Path) -> None:
    found = problems(tmp_path, old, new)
    assert any(help in (each.help or "") + each.message for each in found), [(d.message, d.help) for d in found]


def test_parameters_beside_an_empty_with_are_one_problem(tmp_path: Path) -> None:
    old = "{uses: text.encode, with: {model: $model, prompt: a boat}}"
    new = "\n    uses: text.encode\n    with:\n    model: $model\n    prompt: a boat"
    (found,) = problems(tmp_path, old, new)
    assert found.message == "node `text` has no keys `model`, `prompt`"
    assert found.help == "`with:` has nothing below it: indent `model`, `prompt` further than `with`"


def test_parameters_beside_uses_are_one_problem(tmp_path: Path) -> None:
    old = "{uses: latents.noise, with: {model: $model, width: 96,"
    (found,) = problems(tmp_path, old, "{uses: latents.noise, width: 96, with: {model: $model,")
    assert found.help == "parameters stand below `with`: write `with: {width: …}`"


GATE = """sgd: 1
nodes:
  gate:
    uses: cache.fora
    with:
      every: 2
outputs: {gate: $gate}
"""


def problems_of_gate(tmp_path: Path, old: str, new: str) -> list[Diagnostic]:
    assert GATE.count(old) == 1
    file = tmp_path / "gate.yaml"
    file.write_text(GATE.replace(old, new), encoding="utf-8")
    return check(file).errors


@pytest.mark.parametrize(
    ("old", "new", "help"),
    [
        ("    with:\n      every", "  with:\n    every", "begin its line with 4 spaces, as that of `uses`"),
        ("    with:\n      every", "with:\n  every", "begin its line with 4 spaces, as that of `uses`"),
        ("    with:\n      every: 2", "with:\n  every: 2\n  other: {uses: cache.none}", "begin its line with 4 spaces"),
        (
            "\n    uses: cache.fora\n    with",
            " {uses: cache.fora}\n  with",
            "write `with: {…}` inside the braces of `gate`",
        ),
    ],
)
def test_a_block_with_outside_its_node_is_one_problem(old: str, new: str, help: str, tmp_path: Path) -> None:
    (found,) = problems_of_gate(tmp_path, old, new)
    assert found.message == "the block `with` belongs under node `gate`"
    assert (found.help or "").startswith(help)


def test_a_block_with_after_a_node_that_has_one_is_no_second_block(tmp_path: Path) -> None:
    found = problems_of_gate(tmp_path, "outputs", "  with:\n    every: 3\noutputs")
    assert {d.message for d in found} == {"node `with` has no key `every`", "node `with` needs a key `uses`"}


@pytest.mark.parametrize(
    ("old", "new", "name"),
    [
        ("every: 2", "every： 2", "every"),
        ("    uses: cache.fora\n    with:\n      every: 2\n", "    uses： cache.fora\n", "uses"),
        ("with:\n      every: 2", "with: {every： 2}", "every"),
        ("with:\n      every: 2", "with: {every：2}", "every"),
        ("\n    uses: cache.fora\n    with:\n      every: 2\n", " {uses： cache.fora, with: {every: 2}}\n", "uses"),
    ],
)
def test_a_full_width_colon_is_one_problem(old: str, new: str, name: str, tmp_path: Path) -> None:
    (found,) = problems_of_gate(tmp_path, old, new)
    assert found.message == f"`：` after `{name}` is a full-width colon, which YAML reads as text"
    assert found.help == "write `:` for `：`, and a space after it"


def test_a_full_width_colon_in_quotes_is_text(tmp_path: Path) -> None:
    assert problems_of_gate(tmp_path, "    with", '    about: "note： text"\n    with') == []


@pytest.mark.parametrize("wrong", ["cfg_denois.yaml", "cfg_denoise.yml", "cfg_denois"])
def test_a_file_in_a_folder_of_a_library_is_near_one_beside_it(wrong: str, tmp_path: Path) -> None:
    (found,) = problems_of_gate(tmp_path, "uses: cache.fora", f"uses: sgd:parts/{wrong}")
    assert found.help == "did you mean `sgd:parts/cfg_denoise`?"


def test_the_path_of_a_node_in_a_used_file_is_no_reference(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    quickstart = portable_copy(bundled_workflows() / "quickstart.yaml")
    file.write_text(quickstart.replace("latents: $denoise}", "latents: $denoise.loop.next}"), encoding="utf-8")
    (found,) = check(file).errors
    assert found.message.startswith("`$denoise.loop.next` is not a reference")
    assert found.help is not None
    assert "`loop.next` is a node of sgd:parts/cfg_denoise.yaml: read an output of the file" in found.help
    assert "`$denoise.latents`" in found.help


def test_a_misspelt_key_of_a_node_is_still_that(tmp_path: Path) -> None:
    found = problems(tmp_path, "vae.decode, with: {", "vae.decode, wth: {")
    assert [d.help for d in found if d.code == "unknown-key"] == ["did you mean `with`?"]


def test_an_input_given_twice_names_both_values(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "quickstart", "seed=1", "steps=2", "seed=3"]) == 2
    assert "`seed` is given twice: seed=1 and seed=3" in capsys.readouterr().err
    assert main(["plan", "quickstart", "--set", "video.fps=1", "--set", "video.fps=3"]) == 2
    assert "`video.fps` is given twice" in capsys.readouterr().err


def test_a_full_width_name_on_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "quickstart", "ｓeed=1"]) == 2
    assert "did you mean `seed`, in ASCII letters?" in capsys.readouterr().err


def test_a_file_that_is_not_there_is_near_one_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "flows").mkdir()
    for name in ("mine.yaml", "flows/boat.yml", "flows/boats.txt"):
        Path(name).write_text("sgd: 1\n")
    helps = {}
    for wrong in ("min.yaml", "flows/boats.yml", "quickstrat"):
        with pytest.raises(Problems) as caught:
            compile(wrong)
        [helps[wrong]] = [problem.help for problem in caught.value.diagnostics]
    assert helps == {
        "min.yaml": "did you mean `mine.yaml`?",
        "flows/boats.yml": "did you mean `flows/boat.yml`?",
        "quickstrat": "did you mean `quickstart`?",
    }
