"""`--set node.uses=type` exchanges the type of a node."""

from __future__ import annotations

from pathlib import Path

import pytest
import sgd
from sgd.graph.cli.candidates import candidates
from sgd.graph.cli.main import parser
from sgd.graph.compiler.compile import Checked, check
from sgd.graph.compiler.ir import Call
from sgd.graph.contract.node import node
from sgd.graph.language.literals import Given


def exchanged(file: str | Path, *settings: str) -> Checked:
    pairs = dict(each.split("=", 1) for each in settings)
    return check(file, settings={path: Given(value, True, Path.cwd()) for path, value in pairs.items()})


def found(checked: Checked) -> list[tuple[str, str, str]]:
    return [(d.severity, d.code, d.message) for d in checked.diagnostics]


def call(checked: Checked, path: str) -> Call:
    assert checked.graph is not None
    return next(each for each in checked.graph.calls() if each.id == path)


def test_shared_parameters_stay_and_one_warning_names_the_others() -> None:
    checked = exchanged("quickstart", "gate.uses=cache.dbcache")
    ((severity, code, message),) = found(exchanged("quickstart", "gate.uses=cache.fora"))
    gate = call(checked, "gate")
    assert (gate.type.name, set(gate.args)) == ("cache.dbcache", {"threshold", "max_consecutive"})
    assert found(checked) == []
    assert (severity, code) == ("warning", "unknown-parameter")
    assert "cache.fora has no `threshold`, `max_consecutive`" in message


def test_what_only_dropped_parameters_read_gives_no_further_warning(tmp_path: Path) -> None:
    # The input `cache` of the quickstart, and here a node and an input that it reads.
    (warning,) = found(exchanged("quickstart", "gate.uses=cache.none"))
    assert "`threshold`, `max_consecutive`" in warning[2]
    file = tmp_path / "w.yaml"
    file.write_text(
        "sgd: 1\ninputs:\n  picture: {type: path, default: x.png}\nnodes:\n"
        "  image: {uses: image.load, with: {path: $picture}}\n"
        "  sheet: {uses: frames.grid, with: {frames: $image}}\n"
        "  saved: {uses: image.save, with: {frames: $sheet, path: y.png}}\noutputs: {x: $saved}\n"
    )
    (tmp_path / "x.png").touch()
    checked = exchanged(file, "sheet.uses=video.load", "sheet.path=clip.mp4")
    assert [d.code for d in checked.warnings] == ["unknown-parameter"]


def test_a_missing_required_parameter_is_an_error_that_names_the_setting(tmp_path: Path) -> None:
    checked = exchanged("quickstart", "gate.uses=image.load")
    missing = next(d for d in checked.errors if d.code == "missing-parameter")
    assert missing.span is None
    assert missing.help == "give --set gate.path=… too"
    mismatch = next(d for d in checked.errors if d.code == "type-mismatch")
    assert "by --set gate.uses=image.load" in mismatch.label
    given = exchanged("quickstart", "gate.uses=cache.scm", "gate.policy=fast")
    assert not [d for d in given.errors if d.code == "missing-parameter"]


def test_parameters_of_the_new_type_can_be_set_and_those_of_the_old_cannot() -> None:
    set_too = exchanged("quickstart", "gate.uses=cache.fora", "gate.every=3")
    assert call(set_too, "gate").args["every"].source.value == 3  # type: ignore[union-attr]
    assert set_too.settings == {"gate.uses": "cache.fora", "gate.every": 3}
    gone = exchanged("quickstart", "gate.uses=cache.fora", "gate.max_consecutive=3")
    assert ("error", "unknown-parameter") in [f[:2] for f in found(gone)]


@pytest.mark.parametrize(
    ("setting", "code", "help"),
    [
        ("gate.uses=cache.teacach", "unknown-node-type", "did you mean `cache.teacache`?"),
        ("denoise.uses=image.load", "bad-value", "paths of nodes in the file begin with `denoise.`"),
        ("denoise.loop.uses=image.load", "unknown-parameter", None),
        ("gat.uses=cache.none", "unknown-parameter", "did you mean `gate.uses`?"),
    ],
)
def test_wrong_exchanges(setting: str, code: str, help: str | None) -> None:
    (problem,) = exchanged("quickstart", setting).errors
    assert (problem.code, problem.span) == (code, None)
    assert help is None or problem.help == help


def test_a_node_in_a_loop_of_a_composite_is_exchanged() -> None:
    checked = exchanged("quickstart", "denoise.loop.split.uses=cfg.merge")
    assert {d.code for d in checked.errors} == {"missing-parameter", "type-mismatch"}
    fine = exchanged("quickstart", "denoise.loop.next.uses=schedule.step")
    assert found(fine) == []
    assert call(fine, "denoise.loop.next").given == "--set denoise.loop.next.uses=schedule.step"


def test_a_problem_of_an_exchanged_node_names_the_new_type() -> None:
    (problem,) = exchanged("quickstart", "gate.uses=cache.teacache").errors
    assert [each.message for each in problem.related] == [
        "made here (cache.teacache, by --set gate.uses=cache.teacache)"
    ]


def test_a_port_that_the_new_type_lacks_is_an_error_at_its_reader(tmp_path: Path) -> None:
    file = tmp_path / "w.yaml"
    file.write_text(
        "sgd: 1\nnodes:\n  clip: {uses: video.load, with: {path: x.mp4}}\n"
        "  saved: {uses: video.save, with: {frames: $clip.frames, fps: $clip.fps, path: y.mp4}}\noutputs: {x: $saved}\n"
    )
    checked = exchanged(file, "clip.uses=image.load")
    (problem,) = [d for d in checked.errors if d.code == "unknown-reference"]
    assert problem.message == "`clip` has no output `fps`"
    assert any("--set clip.uses=image.load" in related.message for related in problem.related)


def test_python_callers_exchange_types_too() -> None:
    plan = sgd.compile("quickstart", set={"gate.uses": "cache.none"})
    assert plan.names["gate"] == "cache.none"
    assert plan.settings == {"gate.uses": "cache.none"}


def test_no_parameter_and_no_input_is_named_uses(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="no parameter can be named `uses`"):

        @node("toy.uses")
        def toy(uses: str) -> str:
            return uses

    file = tmp_path / "w.yaml"
    file.write_text("sgd: 1\ninputs:\n  uses: {type: int}\nnodes: {}\n")
    assert ("error", "shadowed-name", "`uses` cannot be the name of an input") in found(check(file))


def test_completion_offers_types_with_the_same_outputs() -> None:
    words = [each.text for each in candidates(["exec", "quickstart", "--set", "gate.uses="], parser())]
    assert "gate.uses=cache.teacache" in words
    assert not any("image.load" in word or word == "gate.uses=cache.taylorseer" for word in words)
    assert "gate.uses=" in [each.text for each in candidates(["exec", "quickstart", "--set", "gate."], parser())]
