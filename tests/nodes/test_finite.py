"""Numbers that are not finite end a run at the node and step that made them, and nothing is saved of them."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import numpy
import pytest
import sgd
import torch
from helpers import broken_nodes
from safetensors.torch import load_file, save_file
from sgd.graph.contract.events import Observer
from sgd.graph.contract.node import Run
from sgd.nodes.support import finite
from sgd.nodes.values import Conditioning, ImageCondition, Predictions, Size, Step

SCHEMA = json.loads((Path(sgd.__file__).parent / "docs" / "run.schema.json").read_text())
NAN, INF = math.nan, math.inf
FLOW = """
sgd: 1
inputs: {{at: {{type: int, default: -1}}}}
nodes:
  model: {{uses: model.load, with: {{source: {source}}}}}
  text: {{uses: text.encode, with: {{model: $model, prompt: a cat, max_length: 8}}}}
  noise: {{uses: latents.noise, with: {{model: $model, width: 32, height: 32, frames: 5}}}}
  schedule: {{uses: schedule.make, with: {{model: $model, steps: 4}}}}
  branches: {{uses: cfg.split, with: {{conditioning: $text, scale: 5}}}}
  gate: {{uses: cache.fora, with: {{every: 2}}}}
  denoise:
    for: {{step: $schedule}}
    carry: {{latents: $noise}}
    body:
      damage: {{uses: broken.damage, with: {{latents: $latents, step: $step, at: $at}}}}
      predict:
        uses: denoiser.predict
        with: {{model: $model, latents: $damage, step: $step, branches: $branches{gate}}}
      merge: {{uses: cfg.merge, with: {{predictions: $predict, branches: $branches}}}}
      next: {{uses: schedule.step, with: {{schedule: $schedule, step: $step, latents: $damage, velocity: $merge}}}}
    yield: {{latents: $next}}
  frames: {{uses: vae.decode, with: {{model: $model, latents: $denoise}}}}
  video: {{uses: video.save, with: {{frames: $frames, path: clip.mp4}}}}
  kept: {{uses: latents.save, with: {{latents: $denoise, path: latents.safetensors}}}}
outputs: {{video: $video, kept: $kept}}
"""


@pytest.fixture(scope="module")
def library() -> Any:
    return broken_nodes.library()


@pytest.fixture
def run(tmp_path: Path, library: Any) -> Any:
    """Run the workflow with the model in a folder."""

    def run(source: Path, inputs: Any = None, set: Any = None, gate: bool = False, **options: Any) -> Any:
        file = tmp_path / "flow.yaml"
        file.write_text(FLOW.format(source=source, gate=", gate: $gate" if gate else ""))
        plan = sgd.compile(file, inputs=inputs, set=set, library=library)
        return sgd.run(plan, out=tmp_path / "out", **options)

    return run


@pytest.fixture
def poisoned(wan_folder: Path, tmp_path: Path) -> Any:
    """The tiny model with one weight replaced."""

    def poisoned(component: str, key: str, value: float) -> Path:
        folder = tmp_path / f"poisoned-{component}"
        shutil.copytree(wan_folder, folder)
        [file] = (folder / component).glob("*.safetensors")
        tensors = load_file(file)
        assert key in tensors
        tensors[key].view(-1)[0] = value
        save_file(tensors, file, metadata={"format": "pt"})
        return folder

    return poisoned


def failed(done: Any, *words: str) -> str:
    """The message of a run that failed without a file but its record."""
    assert done.status == "failed"
    message = str(done.error)
    assert [word for word in words if word not in message] == []
    assert [path.name for path in done.folder.iterdir()] == ["run.json"]
    record = json.loads((done.folder / "run.json").read_text())
    jsonschema.validate(record, SCHEMA)
    assert record["status"] == "failed"
    assert record["error"] == message
    return message


@pytest.mark.parametrize(
    ("component", "key", "value", "words"),
    [
        (
            "transformer",
            "proj_out.weight",
            NAN,
            ("denoise.predict (", "Predictions", "NaN", "step 0", "1st of 4", "LoRA"),
        ),
        (
            "text_encoder",
            "encoder.final_layer_norm.weight",
            INF,
            ("text (text.encode)", "Conditioning", "text encoder"),
        ),
        ("vae", "decoder.conv_out.bias", INF, ("frames (vae.decode)", "infinite", "VAE")),
        ("vae", "decoder.norm_out.gamma", NAN, ("frames (vae.decode)", "NaN", "VAE")),
    ],
)
def test_a_damaged_weight_ends_the_run_at_its_node(poisoned, run, component, key, value, words):
    if component == "vae":
        done = run(poisoned(component, key, value))
        assert done.status == "failed"
        assert [word for word in words if word not in str(done.error)] == []
        assert not list(done.folder.glob("*.mp4"))
    else:
        failed(run(poisoned(component, key, value)), "not finite", *words)


def test_an_overflow_names_the_dtype_that_is_too_narrow(poisoned, run):
    folder = poisoned("transformer", "proj_out.bias", 9e4)
    message = failed(run(folder, set={"model.dtype": "float16"}), "denoise.predict", "float16 1x16x2x4x4", "step 0")
    assert "set `dtype: bfloat16` or `dtype: float32` of model.load: float16 ends at 65504" in message
    assert run(folder, set={"model.dtype": "bfloat16"}, overwrite=True).status == "done"


@pytest.mark.parametrize(("at", "words"), [(0, "step 0 of denoise (1st of 4)"), (2, "step 2 of denoise (3rd of 4)")])
def test_the_step_is_that_of_the_first_damage(wan_folder, run, at, words):
    message = failed(run(wan_folder, {"at": at}), "denoise.damage (broken.damage)", "its output `latents`", words)
    assert "an infinite number" in message


def test_without_the_check_the_run_goes_on_and_the_record_says_so(wan_folder, run):
    done = run(wan_folder, {"at": 2}, options={"no_check_finite": True})
    assert done.status == "done"
    assert done.record["options"]["no_check_finite"] is True
    assert not torch.isfinite(load_file(done.folder / "latents.safetensors")["latents"]).all()


def test_random_weights_give_a_warning_alone(wan_folder, run):
    done = run(wan_folder, {"at": 2}, options={"weights": "dummy"})
    assert done.status == "done"
    found = [text for text in done.record["warnings"] if "not finite" in text]
    assert found[0].startswith("denoise.damage: its output `latents`")
    assert len({text.partition(":")[0] for text in found}) == len(found)


def test_files_with_numbers_that_are_not_finite_are_refused(wan_folder, run, tmp_path):
    kept = run(wan_folder, {"at": 3}, options={"no_check_finite": True}).folder / "latents.safetensors"
    loading = {"latents.load": str(kept), "image.load": str(tmp_path / "float.tiff")}
    from PIL import Image

    pixels = numpy.ones((4, 4), "float32")
    pixels[1, 2] = NAN
    Image.fromarray(pixels).save(loading["image.load"])
    for number, (type, path) in enumerate(loading.items()):
        file = tmp_path / "load.yaml"
        file.write_text(f"sgd: 1\nnodes: {{it: {{uses: {type}, with: {{path: {path}}}}}}}\noutputs: {{it: $it}}\n")
        plan = sgd.compile(file)
        message = failed(sgd.run(plan, out=tmp_path / f"load-{number}"), f"it ({type})", "NaN", path)
        assert "make the file" in message
        off = sgd.run(plan, out=tmp_path / f"off-{number}", options={"no_check_finite": True})
        assert off.status == "done"


# numbers that are finite, and values that are left out


@pytest.mark.parametrize(
    ("dtype", "largest"),
    [
        (torch.float16, 60000.0),
        (torch.bfloat16, 3e38),
        (torch.float32, 3e38),
        (torch.float64, 1e308),
        (torch.float8_e4m3fn, 448.0),
    ],
)
@pytest.mark.parametrize("later", [False, True])
def test_a_sum_that_overflows_is_no_alarm_and_one_bad_number_is(dtype, largest, later, monkeypatch):
    check = watched(monkeypatch, later)
    shape = (3, 5, 7)
    look(check, torch.full(shape, largest, dtype=torch.float64).to(dtype))
    look(check, torch.randn(shape, dtype=torch.float64).to(dtype))
    check.read(wait=True)
    for value in (NAN,) if dtype == torch.float8_e4m3fn else (NAN, INF, -INF):
        for place in (0, 52, 104):
            tensor = torch.zeros(shape, dtype=torch.float64)
            tensor.view(-1)[place] = value
            with pytest.raises(finite.WrongValue, match="NaN" if math.isnan(value) else "infinite"):
                look_and_read(check, tensor.to(dtype).transpose(0, 2))


def test_masks_whole_numbers_and_empty_tensors_are_left_out(monkeypatch):
    check = watched(monkeypatch, False)
    mask = torch.full((2, 4), -INF)
    image = ImageCondition({"latents": torch.zeros(1), "mask": mask}, "wan", Size(16, 16))
    text = Conditioning({"embeddings": torch.zeros(1), "attention_mask": mask}, None, "wan")
    for value in (image, text):
        assert not any("mask" in name for name in value.finite_tensors())
    for tensor in (torch.ones(3, dtype=torch.int64), torch.zeros(0), torch.ones(2, dtype=torch.bool)):
        look(check, tensor)
    look(check, torch.full((3,), NAN, device="meta"))


def test_every_branch_of_a_prediction_is_looked_at():
    step = Step(0, 1, 1.0, 1000.0, torch.tensor(1000.0))
    names = Predictions({"positive": torch.zeros(1), "negative": torch.zeros(1)}, step).finite_tensors()
    assert set(names) == {"positive", "negative"}


# results that are read later, as on a GPU


class Event:
    """The event of a copy that has not happened until something waits for it."""

    waits = 0

    def __init__(self) -> None:
        self.done = False

    def record(self) -> None:
        self.done = False

    def query(self) -> bool:
        return self.done

    def synchronize(self) -> None:
        Event.waits += 1
        self.done = True


def watched(monkeypatch: pytest.MonkeyPatch, later: bool) -> finite.FiniteCheck:
    if later:
        read_later(monkeypatch)
    check = finite.FiniteCheck(Run(), lambda call: call.type.effect)
    check.call = Call  # type: ignore[assignment]
    return check


class Call:
    """A call that makes tensors."""

    id = "call"
    type = broken_nodes.frames.node


def look(check: finite.FiniteCheck, tensor: torch.Tensor) -> None:
    check.look(Call, "frames", "", tensor, "Frames")  # type: ignore[arg-type]


def look_and_read(check: finite.FiniteCheck, tensor: torch.Tensor) -> None:
    look(check, tensor)
    check.read(wait=True)


def read_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """Treat tensors on the CPU as on a GPU: results arrive when something waits for them."""
    original = finite.Batch.__init__

    def init(self: finite.Batch, device: torch.device) -> None:
        original(self, device)
        self.event = Event()

    Event.waits = 0
    monkeypatch.setattr(finite.Batch, "__init__", init)
    monkeypatch.setattr(finite.FiniteCheck, "is_read_later", lambda self, tensor: True)


def test_before_decoding_the_results_are_waited_for(wan_folder, run, monkeypatch):
    read_later(monkeypatch)
    message = failed(run(wan_folder, {"at": 1}), "denoise.damage (broken.damage)", "step 1 of denoise (2nd of 4)")
    assert "  latents:" not in message  # the arguments of an earlier call are gone


def test_a_run_of_finite_numbers_waits_before_decoding_and_saving_alone(wan_folder, run, monkeypatch):
    read_later(monkeypatch)
    assert run(wan_folder).status == "done"
    batches = Event.waits
    # The text, noise and first step; three more steps; the frames.
    assert batches == 5


def test_a_result_that_arrives_ends_the_run_in_the_loop(wan_folder, run, monkeypatch):
    read_later(monkeypatch)
    monkeypatch.setattr(Event, "query", lambda self: True)
    seen: list[int] = []

    class Turns(Observer):
        def turn_finished(self, loop: Any, index: int, seconds: float) -> None:
            seen.append(index)

    failed(run(wan_folder, {"at": 1}, observers=[Turns()]), "step 1 of denoise (2nd of 4)")
    assert seen == [0, 1]


@pytest.mark.parametrize("later", [False, True])
def test_a_prediction_that_a_gate_reuses_is_found(poisoned, run, monkeypatch, later):
    if later:
        read_later(monkeypatch)
    done = run(poisoned("transformer", "blocks.0.ffn.net.2.bias", NAN), gate=True)
    failed(done, "denoise.predict (denoiser.predict)", "Predictions", "step 0 of denoise (1st of 4)")


def test_the_first_of_many_results_is_named(monkeypatch):
    check = watched(monkeypatch, True)
    for number in range(200):
        look(check, torch.full((1 + number,), INF if number in (70, 150) else 1.0))
    with pytest.raises(finite.WrongValue, match="float32 71"):
        check.read(wait=True)


def test_the_last_results_are_read_at_the_end_of_the_run(tmp_path, library, monkeypatch):
    read_later(monkeypatch)
    file = tmp_path / "flow.yaml"
    file.write_text("sgd: 1\nnodes: {f: {uses: broken.frames, with: {value: 1e30, narrow: true}}}\noutputs: {f: $f}\n")
    failed(sgd.run(sgd.compile(file, library=library), out=tmp_path / "out"), "f (broken.frames)", "float16")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_the_node_and_step_are_the_same(wan_folder, run):
    failed(run(wan_folder, {"at": 2}, device="cuda"), "denoise.damage", "step 2 of denoise (3rd of 4)")
    assert run(wan_folder, device="cuda", overwrite=True).status == "done"


def test_the_option_belongs_to_exec_alone():
    command = [sys.executable, "-m", "sgd.graph.cli.main"]
    told = {
        name: subprocess.run([*command, name, "--help"], capture_output=True, text=True).stdout
        for name in ("exec", "plan")
    }
    assert "--no-check-finite" in told["exec"]
    assert "--no-check-finite" not in told["plan"]
