"""The next component comes to the device while an encoder works, with the same numbers as from the library's loader."""

import shutil
import threading

import pytest
import sgd
import torch
from helpers import tiny, tiny_flux, tiny_hunyuan_video, tiny_qwen_image, tiny_z_image
from helpers.direct import DirectRun
from safetensors.torch import load_file, save_file
from sgd.graph.contract.events import Observer
from sgd.nodes.models.memory import device_fit, kept_weights
from sgd.nodes.models.nodes.model_load import load
from sgd.nodes.models.repository import early_tensors
from sgd.nodes.support import device_memory

FILE = """
sgd: 1
name: early
inputs: {source: {type: str}}
nodes:
  model: {uses: model.load, with: {source: $source, dtype: float32}}
  text: {uses: text.encode, with: {model: $model, prompt: a boat, max_length: 16}}
  noise: {uses: latents.noise, with: {model: $model, width: 32, height: 32, frames: 5}}
  schedule: {uses: schedule.make, with: {model: $model, steps: 1}}
  denoise:
    for: {step: $schedule}
    carry: {latents: $noise}
    body:
      split: {uses: cfg.split, with: {conditioning: $text, scale: 1.0}}
      velocity: {uses: denoiser.predict, with: {model: $model, latents: $latents, step: $step, branches: $split}}
      guided: {uses: cfg.merge, with: {predictions: $velocity, branches: $split}}
      next: {uses: schedule.step, with: {schedule: $schedule, step: $step, latents: $latents, velocity: $guided}}
    yield: {latents: $next}
  saved: {uses: latents.save, with: {latents: $denoise, path: latents.safetensors}}
"""


@pytest.fixture
def plan(wan_folder, tmp_path):
    def make(source=wan_folder):
        (tmp_path / "early.yaml").write_text(FILE)
        return sgd.compile(tmp_path / "early.yaml", inputs={"source": str(source)})

    return make


@pytest.fixture
def reads(monkeypatch):
    """Set when the early reading of a component begins."""
    began, own = threading.Event(), early_tensors.read

    def read(*arguments):
        began.set()
        return own(*arguments)

    monkeypatch.setattr(early_tensors, "read", read)
    return began


def encoder(monkeypatch, during):
    """Call `during` inside the text encoder's forward."""
    from transformers import UMT5EncoderModel

    forward = UMT5EncoderModel.forward

    def encode(*arguments, **named):
        during()
        return forward(*arguments, **named)

    monkeypatch.setattr(UMT5EncoderModel, "forward", encode)


def state(module):
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


BUILDERS = {
    "wan": tiny.wan,
    "flux": tiny_flux.build,
    "hunyuan_video": tiny_hunyuan_video.hunyuan_video,
    "qwen_image": tiny_qwen_image.build,
    "z_image": tiny_z_image.build,
}


@pytest.mark.parametrize(("family", "dtype"), [("wan", "float32"), *((family, "bfloat16") for family in BUILDERS)])
def test_the_module_is_that_of_the_loader(family, dtype, tmp_path):
    folder = tmp_path / "model"
    BUILDERS[family]().save_pretrained(folder)
    run = DirectRun(tmp_path / "out")
    usual, early = load(run, str(folder), dtype=dtype), load(run, str(folder), dtype=dtype)
    early.acquire("text_encoder", run)
    for part in ("transformer", "vae"):
        early.prefetch(part, run)
        assert part in early.weights.early
        usual.acquire(part, run)
        early.acquire(part, run)
        theirs, ours = usual.component(part), early.component(part)
        expected, made = state(theirs), state(ours)
        assert made.keys() == expected.keys()
        assert all(
            torch.equal(made[name], value) and made[name].dtype == value.dtype for name, value in expected.items()
        )
        assert type(ours) is type(theirs)
        assert not ours.training
        assert not any(parameter.requires_grad for parameter in ours.parameters())
        assert {k: v for k, v in theirs.config.items() if not k.startswith("_")} == {
            k: v for k, v in ours.config.items() if not k.startswith("_")
        }
        early.release(part)  # nothing comes early beside it
    assert not early.weights.early


def test_the_transformer_begins_to_load_before_text_encode_ends(plan, reads, tmp_path, monkeypatch):
    usual = sgd.run(plan(), out=tmp_path / "usual", device="cpu")
    assert reads.is_set()
    reads.clear()
    seen = []
    encoder(monkeypatch, lambda: seen.append(reads.wait(20)))
    early = sgd.run(plan(), out=tmp_path / "early", device="cpu")
    assert seen == [True]
    assert [usual.status, early.status] == ["done", "done"]
    monkeypatch.setattr(device_fit, "WORKING_ROOM", 0)
    reads.clear()
    late = sgd.run(plan(), out=tmp_path / "late", device="cpu")
    assert not reads.is_set()
    assert (early.folder / "latents.safetensors").read_bytes() == (late.folder / "latents.safetensors").read_bytes()


def test_nothing_is_early_without_room_for_both(wan_folder, tmp_path, monkeypatch, reads):
    run = DirectRun(tmp_path / "out")
    model = load(run, str(wan_folder))
    size = model.weights.parameters("transformer")[1]
    work = device_fit.WORK_SHARE * model.weights.parameters("text_encoder")[1]
    enough = work + size / device_fit.WORKING_ROOM
    model.prefetch("transformer", run)  # no encoder is at work
    model.acquire("text_encoder", run)
    monkeypatch.setattr(device_memory, "free", lambda run: enough - 2)
    model.prefetch("transformer", run)
    assert not reads.is_set()
    monkeypatch.setattr(device_memory, "free", lambda run: enough + 2)
    model.acquire("vae", run)
    model.prefetch("transformer", run)
    assert not reads.is_set()
    model.release("vae")
    model.prefetch("transformer", run)
    assert reads.is_set()


def test_a_session_has_early_components_too(plan, reads, tmp_path, monkeypatch):
    monkeypatch.setattr(kept_weights, "LEAST_FREE", 0)
    seen = []
    encoder(monkeypatch, lambda: seen.append(reads.wait(20)))
    alone = sgd.run(plan(), out=tmp_path / "alone", device="cpu")
    reads.clear()
    with sgd.session():
        runs = [sgd.run(plan(), out=tmp_path / name, device="cpu") for name in ("first", "second")]
    assert seen == [True] * 3
    files = [(run.folder / "latents.safetensors").read_bytes() for run in (alone, *runs)]
    assert files[0] == files[1] == files[2]


def test_in_a_session_no_idle_component_is_dropped_for_an_early_one(plan, reads, tmp_path, monkeypatch):
    monkeypatch.setattr(kept_weights, "LEAST_FREE", 1)
    with sgd.session():
        run = sgd.run(plan(), out=tmp_path / "out", device="cpu")
    assert run.status == "done"
    assert not reads.is_set()


def test_tensors_of_files_that_changed_are_read_again(wan_folder, tmp_path):
    source = shutil.copytree(wan_folder, tmp_path / "model")
    run = DirectRun(tmp_path / "out")
    model = load(run, str(source), dtype="float32")
    model.acquire("text_encoder", run)
    model.prefetch("transformer", run)
    assert "transformer" in model.weights.early
    file = next((source / "transformer").glob("*.safetensors"))
    changed = {name: tensor + 1 for name, tensor in load_file(file).items()}
    save_file(changed, file.with_suffix(".new"), metadata={"format": "pt"})
    file.with_suffix(".new").replace(file)
    model.acquire("transformer", run)
    made = state(model.component("transformer"))
    assert all(torch.equal(made[name], tensor) for name, tensor in changed.items())


def test_an_error_is_told_once_by_the_node_that_loads(plan, wan_folder, tmp_path):
    shutil.copytree(wan_folder, tmp_path / "broken")
    config = tmp_path / "broken/transformer/config.json"
    config.write_text(config.read_text().replace('"ffn_dim": ', '"ffn_dim": 1'))
    failures = []

    class Listen(Observer):
        def node_failed(self, call, error):
            failures.append((call.id, str(error)))

    run = sgd.run(plan(tmp_path / "broken"), out=tmp_path / "out", device="cpu", observers=[Listen()])
    assert run.status == "failed"
    [(node, message)] = failures
    assert node == "model"
    assert "ffn" in message
    assert not any(thread.name == "sgd prefetch" for thread in threading.enumerate())


def test_the_end_of_a_run_leaves_no_thread(plan, reads, tmp_path, monkeypatch):
    """The encoder fails while the transformer is read, and the reading would go on for ever."""
    waiting = threading.Event()

    def fail():
        assert waiting.wait(20)
        raise ValueError("broken encoder")

    def read(module, files, device, stop):
        waiting.set()
        while not stop():
            pass

    monkeypatch.setattr(early_tensors, "read", read)
    encoder(monkeypatch, fail)
    run = sgd.run(plan(), out=tmp_path / "out", device="cpu")
    assert "broken encoder" in str(run.error)
    assert not any(thread.name == "sgd prefetch" for thread in threading.enumerate())


def test_a_process_that_waits_for_another_loads_early_without_an_encoder(wan_folder, tmp_path, monkeypatch, reads):
    run = DirectRun(tmp_path / "out")
    model = load(run, str(wan_folder))
    run.waits = True
    size = model.weights.parameters("transformer")[1]
    monkeypatch.setattr(device_memory, "free", lambda run: int(size / device_fit.WORKING_ROOM) - 1)
    model.prefetch("transformer", run)
    assert not reads.is_set()
    monkeypatch.setattr(device_memory, "free", lambda run: int(size / device_fit.WORKING_ROOM) + 1)
    model.prefetch("transformer", run)
    assert reads.is_set()


def test_tensors_that_another_stream_made_are_kept_for_the_work_of_this_one(monkeypatch):
    """Torch gives the memory of a tensor away when the work of the stream is done that made it, and of no other."""
    noted = []

    class OnGpu:
        is_cuda, device = True, "cuda:0"

        def record_stream(self, stream):
            noted.append((self, stream))

    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: f"now on {device}")
    tensors = {"a": OnGpu(), "b": torch.ones(2)}
    assert early_tensors.taken_over(tensors) is tensors
    assert noted == [(tensors["a"], "now on cuda:0")]
