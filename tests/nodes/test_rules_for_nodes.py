"""Nodes that break the rules for nodes: the error names the node, the port and the place in the author's code."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
import sgd
import torch
from helpers import broken_nodes
from sgd.graph.cli.main import main
from sgd.graph.contract.errors import WrongValue
from sgd.graph.contract.node import Run
from sgd.nodes.support.unchanged_inputs import UnchangedInputs
from sgd.nodes.values import Conditioning, Frames, Latents, Size

FILE = Path(broken_nodes.__file__)
FLOW = """
sgd: 1
nodes:
  first: {{uses: broken.frames}}
  bad: {{uses: broken.{name}, with: {{frames: {given}}}}}
  after: {{uses: broken.brightest, with: {{frames: $first}}}}
outputs: {{bad: {output}, after: $after}}
"""
IN_PLACE = "work on a copy (`tensor.clone()`)"


@pytest.fixture(scope="module")
def library() -> Any:
    return broken_nodes.library()


@pytest.fixture
def message(tmp_path: Path, library: Any) -> Any:
    """The error of a workflow with one broken node."""

    def message(name: str, given: str = "$first", output: str = "$bad", text: str = "") -> str:
        file = tmp_path / "flow.yaml"
        file.write_text(text or FLOW.format(name=name, given=given, output=output))
        done = sgd.run(sgd.compile(file, library=library), out=tmp_path / "out", overwrite=True)
        assert done.status == "failed"
        return str(done.error)

    return message


def line_of(name: str) -> int:
    """The line on which a node type begins."""
    return next(n for n, text in enumerate(FILE.read_text().splitlines(), 1) if f'@node("broken.{name}"' in text)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nothing", "its output `frames` is Frames, but it returned None"),
        ("tensor", "its output `frames` is Frames, but it returned a Tensor"),
        ("other", "its output `frames` is Frames, but it returned a Velocity"),
        ("empty", "its output `frames` is Frames, but the Frames that it returned has None as `tensor`"),
        ("array", "its output `frames` is Frames, but the Frames that it returned has a ndarray as `tensor`"),
        ("mapping", "its output `conditioning` is Conditioning, but the Conditioning that it returned has a dict"),
        ("number", "its output `value` is int, but it returned a str"),
        ("entry", "its output `frames` is list[Frames], but it returned None as entry 1 of the list"),
        ("pair", "its output `frames` is list[Frames], but the list that it returned has 1 of 2 entries"),
        ("few", "its output `frames` is list[Frames], but the list that it returned has 1 of 2 or more entries"),
        ("elsewhere", "`tensor` of its output `frames` is on the device meta, but the run is on cpu"),
        ("multiply", "it changed `tensor` of its input `frames` in place"),
        ("slice", "it changed `tensor` of its input `frames` in place"),
    ],
)
def test_the_error_names_node_port_and_function(message, name, words):
    found = message(name)
    assert found.startswith(f"bad (broken.{name}) failed: {words}")
    assert "flow.yaml:5:15" in found
    assert f"tests/helpers/broken_nodes.py:{line_of(name)} in " in found


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("three", "it returned 3 values for its outputs `left`, `right`"),
        ("single", "it returned a Frames in place of its outputs `left`, `right`"),
        ("half", "its output `right` is Frames, but it returned None"),
    ],
)
def test_outputs_of_the_wrong_number_or_type_are_named(message, name, words):
    assert message(name, output="$bad.left").startswith(f"bad (broken.{name}) failed: {words}")


def test_a_node_without_outputs_returns_nothing(message):
    assert "it returned a Frames, but declares no output" in message("more", output="$first")


def test_a_list_from_a_loop_belongs_to_all_its_readers(message):
    text = """
    sgd: 1
    nodes:
      many: {for: {value: [0.1, 0.2]}, body: {f: {uses: broken.frames, with: {value: $value}}}, yield: {f: $f}}
      bad: {uses: broken.append, with: {frames: $many}}
      all: {uses: broken.brightest, with: {frames: $many}}
    outputs: {all: $all, bad: $bad}
    """
    assert "it changed the list of its input `frames`" in message("append", text=text)


def test_a_tensor_deep_inside_of_a_value_is_found(message):
    text = """
    sgd: 1
    nodes:
      first: {uses: broken.frames}
      bag: {uses: broken.bag, with: {frames: $first}}
      bad: {uses: broken.dig, with: {bag: $bag}}
    outputs: {first: $first, bad: $bad}
    """
    found = message("dig", text=text)
    assert "bad (broken.dig) failed: it changed `things[0].it.tensor` of its input `bag` in place" in found
    assert IN_PLACE in found


def test_a_state_that_writes_into_an_earlier_output_is_the_one_named(message, wan_folder):
    text = f"""
    sgd: 1
    nodes:
      model: {{uses: model.load, with: {{source: {wan_folder}}}}}
      schedule: {{uses: schedule.make, with: {{model: $model, steps: 3}}}}
      first: {{uses: broken.frames}}
      loop:
        for: {{step: $schedule}}
        body: {{reuse: {{uses: broken.reuse, with: {{frames: $first, step: $step}}}}}}
        yield: {{frames: $reuse}}
      all: {{uses: broken.brightest, with: {{frames: $loop}}}}
    outputs: {{all: $all}}
    """
    found = message("reuse", text=text)
    assert found.startswith("loop.reuse (broken.reuse) failed: a tensor of its output `frames` was changed after")
    assert "before all read it" in found


def test_plans_find_them_too(tmp_path, capsys):
    file = tmp_path / "flow.yaml"
    file.write_text(FLOW.format(name="nothing", given="$first", output="$bad"))
    assert main(["plan", str(file), "--library", str(FILE)]) == 1
    assert "its output `frames` is Frames, but it returned None" in capsys.readouterr().err


# values that break no rule


class Call:
    """A call that takes and returns values."""

    id = "call"
    type = broken_nodes.frames.node


def check_of(device: str) -> UnchangedInputs:
    run = Run()
    run.device = device
    return UnchangedInputs(run)


def test_lengths_masks_and_single_numbers_may_stay_on_the_cpu():
    """In the values of HunyuanVideo the mask is on the CPU, and in those of Qwen-Image the lengths."""
    there = torch.zeros(2, 3, device="meta")
    text = {"embeddings": there, "attention_mask": torch.ones(2, 3), "lengths": torch.tensor([3, 2])}
    check = check_of("meta")
    check.node_finished(Call, 0.0, {"conditioning": Conditioning(text, None, "wan")})  # type: ignore[arg-type]
    check.node_finished(Call, 0.0, {"latents": Latents(torch.tensor(1.0), "wan", Size(16, 16))})  # type: ignore[arg-type]
    wrong = Conditioning({"embeddings": torch.zeros(2, 3)}, None, "wan")
    with pytest.raises(WrongValue, match=r"`positive\.embeddings` of its output `conditioning` is on the device cpu"):
        check.node_finished(Call, 0.0, {"conditioning": wrong})  # type: ignore[arg-type]


@pytest.mark.parametrize("mode", [torch.no_grad, torch.enable_grad, torch.inference_mode])
def test_reading_views_and_new_tensors_change_nothing(mode):
    check = check_of("cpu")
    value = Latents(torch.randn(1, 4, 2, 2), "wan", Size(16, 16))
    for _ in range(3):
        check.node_started(Call, {"latents": value})  # type: ignore[arg-type]
        with mode():
            tensor = value.tensor.permute(0, 2, 3, 1).reshape(-1)[:4] * 2
            made = Latents(tensor + value.tensor.sum(), "wan", value.size)
            tensor.clone().add_(1)
        check.node_finished(Call, 0.0, {"latents": made})  # type: ignore[arg-type]


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_a_change_in_place_is_found_in_every_mode(mode):
    check = check_of("cpu")
    value = Latents(torch.randn(1, 4, 2, 2), "wan", Size(16, 16))
    check.node_started(Call, {"latents": value})  # type: ignore[arg-type]
    with mode():
        value.tensor.flatten()[3] = 0
    with pytest.raises(WrongValue, match="it changed `tensor` of its input `latents` in place"):
        check.node_finished(Call, 0.0, {"latents": value})  # type: ignore[arg-type]


def test_no_value_lives_longer_because_it_is_checked():
    check = check_of("cpu")
    check.node_finished(Call, 0.0, {"frames": Frames(torch.zeros(3))})  # type: ignore[arg-type]
    assert check.tracked == {}


# exceptions


def test_the_error_names_the_failing_call_in_the_code_of_the_author(message):
    line = inspect.getsourcelines(broken_nodes.into_three)[1] + 1
    found = message("reshape")
    assert f"tests/helpers/broken_nodes.py:{line} in into_three: return tensor.reshape(3)" in found
    found = message("module")
    assert "in module: return Frames(torch.nn.Linear(7, 7)(frames.tensor))" in found


def test_an_error_in_words_needs_no_place_in_the_code(message):
    found = message("words")
    assert "these frames are too beautiful" in found
    assert " = help: take others" in found
    assert "broken_nodes.py" not in found


def test_the_calls_of_the_author_come_first_and_only_if_asked_for(tmp_path, capsys):
    file = tmp_path / "flow.yaml"
    file.write_text(FLOW.format(name="module", given="$first", output="$bad"))
    command = ["exec", str(file), "--library", str(FILE), "--quiet", "--overwrite", "--out", str(tmp_path / "out")]
    assert main(command) == 1
    plain = capsys.readouterr().err
    assert "Traceback" not in plain
    assert " = help: `--traceback` prints the calls that led to it" in plain
    assert main([*command, "--traceback"]) == 1
    told = capsys.readouterr().err
    own, everything = told.split("All calls:")
    assert "Calls in the code of broken.module" in own
    assert own.count('File "') == 1
    assert "torch/nn" not in own
    assert "torch/nn/modules/linear.py" in everything
    assert "KeyError: 'frames'" in everything  # the error that it was handling


def test_an_error_in_words_says_nothing_of_a_traceback(tmp_path, capsys):
    file = tmp_path / "flow.yaml"
    file.write_text(FLOW.format(name="words", given="$first", output="$bad"))
    command = ["exec", str(file), "--library", str(FILE), "--quiet", "--out", str(tmp_path / "out"), "--traceback"]
    assert main(command) == 1
    told = capsys.readouterr().err
    assert "Traceback" not in told
    assert "--traceback" not in told


def test_frames_may_stay_in_the_memory_of_the_host_and_latents_may_not() -> None:
    """Decoded frames leave a GPU while it decodes the next ones."""
    check, size = check_of("meta"), Size(32, 32, 1)
    check.node_finished(Call, 0.0, {"frames": Frames(torch.zeros(1, 1, 4, 4, 3))})  # type: ignore[arg-type]
    latents = Latents(torch.zeros(1, 4, 4, 4), "wan", size)
    with pytest.raises(WrongValue, match="on the device cpu, but the run is on meta"):
        check.node_finished(Call, 0.0, {"latents": latents})  # type: ignore[arg-type]
