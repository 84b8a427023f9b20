"""Offloading and tiling on a GPU: the memory on the device, and equal results. Skipped without a GPU.

These tests ran on one NVIDIA H100 (torch 2.11), except the slow tests and the comparisons after a first call.
"""

import gc

import pytest
import torch
from helpers.direct import DirectRun
from sgd.nodes import latents, vae
from sgd.nodes.models.memory import block_groups
from sgd.nodes.models.nodes.model_load import load
from sgd.nodes.models.nodes.model_offload import offload
from sgd.nodes.support import cost_meter

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

FULL = "Wan-AI/Wan2.1-T2V-1.3B-Diffusers"
SETTINGS = [
    {},
    {"blocks": 2},
    {"granularity": "leaf"},
    {"stream": True},
    {"stream": True, "low_memory": True},
    {"granularity": "leaf", "stream": True},
]


@pytest.fixture
def run():
    made = DirectRun()
    made.device = "cuda"
    return made


@pytest.fixture
def allocated():
    """Bytes allocated since the test began."""
    torch.zeros(1, device="cuda")
    gc.collect()
    before = torch.cuda.memory_allocated()
    return lambda: torch.cuda.memory_allocated() - before


@pytest.fixture(autouse=True)
def no_grad():
    with torch.no_grad():
        yield


def predict(value, width=32):
    generator = torch.Generator().manual_seed(0)
    inputs = {
        "hidden_states": torch.randn(1, 16, 2, 4, 4, generator=generator),
        "timestep": torch.tensor([500.0]),
        "encoder_hidden_states": torch.randn(1, 8, width, generator=generator),
    }
    dtype = value.dtype("transformer")
    given = {name: tensor.to("cuda", dtype) for name, tensor in inputs.items()}
    return value.component("transformer")(**given, return_dict=False)[0].cpu()


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_offloading_keeps_the_results_and_frees_the_device(wan_folder, run, allocated, settings):
    model = load(run, str(wan_folder), dtype="float32")
    model.acquire("transformer", run)
    predict(model)  # libraries keep their work memory after their first call
    model.release("transformer")
    before = allocated()
    value = offload(run, model, **settings)
    value.acquire("transformer", run)
    view = value.component("transformer")
    assert {p.device.type for p in view.parameters()} == {"cpu"}
    # With a stream, the first call learns the order of groups. Later calls transfer groups ahead of time.
    made = [predict(value) for _ in range(3)]
    assert {p.device.type for p in view.parameters()} == {"cpu"}
    model.acquire("transformer", run)
    assert all(torch.equal(one, predict(model)) for one in made)
    assert torch.equal(predict(value), made[0])
    del view
    value.release("transformer")
    model.release("transformer")
    assert allocated() == before


def interrupt(*_):
    raise KeyboardInterrupt


@pytest.mark.parametrize("stream", [False, True])
def test_a_call_that_fails_leaves_nothing_on_the_device(wan_folder, run, allocated, stream):
    value = offload(run, load(run, str(wan_folder), dtype="float32"), stream=stream)
    value.acquire("transformer", run)
    value.component("transformer").blocks[1].register_forward_pre_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        predict(value)
    view = value.component("transformer")
    value.release("transformer")
    assert {p.device.type for p in view.parameters()} == {"cpu"}
    assert not list(block_groups.groups(view))
    del view
    gc.collect()
    assert allocated() == 0


@pytest.mark.parametrize("part", ["text_encoder", "vae"])
@pytest.mark.parametrize("granularity", ["blocks", "leaf"])
def test_other_components_keep_their_results(wan_folder, run, part, granularity):
    model = load(run, str(wan_folder), dtype="float32")
    value = offload(run, model, component=part, granularity=granularity)
    made = []
    for one in (model, value):
        for name in (part, "tokenizer"):
            one.acquire(name, run)
        if part == "vae":
            noise = latents.noise(one, width=48, height=32, frames=9)
            clip = type(noise)(noise.tensor.cuda(), noise.family, noise.size)
            made.append(vae.decode(one, clip, run=run).tensor)
        else:
            made.append(one.family.encode_text(one, ["a red circle"], 16)["encoder_hidden_states"])
    assert torch.equal(*made)
    assert {p.device.type for p in value.component(part).parameters()} == {"cpu"}


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{}, {"granularity": "leaf"}, {"stream": True}], ids=str)
def test_the_memory_equals_the_plan(run, allocated, settings):
    run.options = {"weights": "dummy"}
    value = offload(run, load(run, FULL), **settings)
    value.acquire("transformer", run)
    promised = run.details["transformer"]["device_bytes"]
    assert allocated() < 1e7, "loading puts no weights on the device"
    predict(value, width=4096)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    predict(value, width=4096)
    assert torch.cuda.max_memory_allocated() - before == pytest.approx(promised, rel=0.1, abs=5e7)
    value.release("transformer")
    assert allocated() < 1e7


@pytest.mark.slow
def test_work_that_does_not_fit_is_offloaded_and_tiled(run, allocated, monkeypatch):
    """The query of free memory returns the size of a small GPU. The test measures the memory of the tiled work."""
    from sgd.nodes.support import device_memory

    run.options = {"weights": "dummy"}
    monkeypatch.setattr(device_memory, "free", lambda run: int(1.5e9))
    model = load(run, FULL)
    model.acquire("transformer", run)
    assert "is offloaded to host memory" in run.warnings[-1]
    assert allocated() < 1e7
    model.release("transformer")
    model.acquire("vae", run)
    noise = latents.noise(model, width=832, height=480, frames=17)
    clip = type(noise)(noise.tensor.cuda(), noise.family, noise.size)
    peaks = []
    with cost_meter.runtime(run):
        for tiling in ("off", "auto"):
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            vae.decode(model, clip, tiling=tiling, run=run)
            peaks.append(torch.cuda.max_memory_allocated() - before)
    assert run.details["tiling"].startswith("on: ")
    assert peaks[1] < peaks[0]
