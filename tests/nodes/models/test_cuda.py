"""Components on a GPU: where they are, what they cost, and that they are gone after release. Skipped without one."""

import gc

import pytest
import sgd
import torch
from helpers.direct import BOTH, DirectRun
from helpers.lora_files import adapters
from safetensors.torch import save_file
from sgd.graph.contract.errors import DoesNotFit
from sgd.nodes import text
from sgd.nodes.models.adapters import transformer_tables
from sgd.nodes.models.nodes.model_load import load
from sgd.nodes.models.nodes.model_lora import lora
from sgd.nodes.models.nodes.model_offload import offload
from sgd.nodes.support import cost_meter

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

DECODING = """
sgd: 1
inputs: {source: {type: str}, level: {enum: [eager, exact]}}
nodes:
  model: {uses: model.load, with: {source: $source}}
  optimized: {uses: model.optimize, with: {model: $model, level: $level}}
  noise: {uses: latents.noise, with: {model: $model, width: 32, height: 32, frames: 9, seed: 3}}
  frames: {uses: vae.decode, with: {model: $optimized, latents: $noise}}
  twice: {uses: frames.concat, with: {frames: [$frames, $second]}}
  again: {uses: vae.encode, with: {model: $optimized, frames: $frames}}
  second: {uses: vae.decode, with: {model: $optimized, latents: $again}}
  sheet: {uses: frames.grid, with: {frames: $twice}}
  image: {uses: image.save, with: {frames: $sheet, path: sheet.png}}
outputs: {image: $image}
"""
FULL = "Wan-AI/Wan2.1-T2V-1.3B-Diffusers"


def run_on(where, **options):
    run = DirectRun()
    run.device, run.options, run.planning = where, options, where == "meta"
    return run


@pytest.fixture
def allocated():
    """Bytes allocated since the test began."""
    gc.collect()  # what tests before this one left in cycles would be freed in the middle of it
    # The first product makes cuBLAS's workspace, which stays.
    torch.ones(8, 8, device="cuda") @ torch.ones(8, 8, device="cuda")
    before = torch.cuda.memory_allocated()
    return lambda: torch.cuda.memory_allocated() - before


@pytest.mark.parametrize("part", ["transformer", "text_encoder", "vae"])
def test_same_weights_as_on_the_cpu(wan_folder, run, allocated, part):
    there = run_on("cuda")
    here, model = load(run, str(wan_folder), dtype="bfloat16"), load(there, str(wan_folder), dtype="bfloat16")
    here.acquire(part, run)
    model.acquire(part, there)
    state = model.component(part).state_dict()
    assert all(value.is_cuda for value in (*state.values(), *model.component(part).buffers()))
    for name, value in here.component(part).state_dict().items():
        assert state[name].dtype == value.dtype
        assert torch.equal(state[name].cpu(), value)
    assert not hasattr(model.component(part), "_hf_hook")
    del state, value
    model.release(part)
    assert allocated() == 0


def test_the_default_dtype(wan_folder):
    model = load(run_on("cuda"), str(wan_folder))
    assert (model.dtype("transformer"), model.dtype("vae")) == (torch.bfloat16, torch.float32)


def test_too_large(allocated):
    run = run_on("cuda", weights="dummy")
    model = load(run, FULL)
    torch.cuda.set_per_process_memory_fraction(1e9 / torch.cuda.get_device_properties(0).total_memory)
    try:
        with pytest.raises(DoesNotFit, match=r"transformer of .* needs 2\.8 GB"):
            model.acquire("transformer", run)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


@pytest.mark.slow
def test_plan_and_reality_at_full_size(allocated):
    """Peak memory of text encoding with random weights, against its plan."""
    run, plan = run_on("cuda", weights="dummy"), run_on("meta", device="cuda")
    peaks = []
    for each in (plan, run):
        torch.cuda.reset_peak_memory_stats()
        base = torch.cuda.memory_allocated()
        with cost_meter.runtime(each), cost_meter.meter(each) as meter:
            model = load(each, FULL)
            for part in ("tokenizer", "text_encoder"):
                model.acquire(part, each)
            text.encode(each, BOTH, model, ["a red circle"], negative=[""], max_length=None)
            model.release("text_encoder")
            planned = meter.take()[
                "peak_bytes"
            ]  # a meter of a real run counts for itself, and not what torch allocates
            peaks.append(planned if each is plan else torch.cuda.max_memory_allocated() - base)
    assert peaks[1] == pytest.approx(peaks[0], rel=0.05)
    assert allocated() < 1e8


@pytest.mark.parametrize("offloaded", [False, True])
def test_merged_adapters_are_those_of_the_cpu(wan_folder, run, tmp_path, allocated, offloaded):
    there, file = run_on("cuda"), str(adapters(tmp_path, "a.safetensors", 1))
    here, model = load(run, str(wan_folder), dtype="float32"), load(there, str(wan_folder), dtype="float32")
    if offloaded:
        model = offload(there, model)
    here, model = lora(run, here, file, scale=0.7), lora(there, model, file, scale=0.7)
    here.acquire("transformer", run)
    model.acquire("transformer", there)
    state = model.component("transformer").state_dict()
    for name, value in here.component("transformer").state_dict().items():
        assert (state[name].cpu() - value).abs().max() <= 1e-6 * max(1.0, value.abs().max().item())
    del state
    model.release("transformer")
    assert allocated() == 0


@pytest.mark.slow
def test_a_lora_on_every_layer_takes_no_second_copy(tmp_path, allocated):
    """At most a few layers are there twice at a time, and none in the end."""
    run = run_on("cuda", weights="dummy")
    model = load(run, FULL, dtype="bfloat16")
    table = transformer_tables.of_config("WanTransformer3DModel", model.config("transformer"))
    assert table is not None
    tensors = {}
    for name, shape in table.shapes.items():
        if name.endswith(".weight") and len(shape) == 2:
            layer = name.removesuffix(".weight")
            tensors[f"{layer}.lora_A.weight"] = torch.ones(8, shape[1])
            tensors[f"{layer}.lora_B.weight"] = torch.ones(shape[0], 8)
    save_file(tensors, tmp_path / "a.safetensors")
    _, size = model.weights.parameters("transformer")
    value = lora(run, model, str(tmp_path / "a.safetensors"))
    torch.cuda.reset_peak_memory_stats()
    value.acquire("transformer", run)
    assert allocated() < 1.02 * size
    assert torch.cuda.max_memory_allocated() < 1.2 * size
    value.release("transformer")
    assert allocated() < 1e8


@pytest.mark.parametrize("level", ["eager", "exact"])
def test_a_workflow_decodes_with_every_level_of_optimize(wan_folder, tmp_path, level):
    """Frames of the rebuilt decoder are in the host's memory; other nodes take them from there."""
    (tmp_path / "w.yaml").write_text(DECODING)
    plan = sgd.compile(tmp_path / "w.yaml", inputs={"source": str(wan_folder), "level": level})
    done = sgd.run(plan, out=tmp_path / "out", device="cuda")
    assert done.status == "done", done.error
    assert (done.folder / "sheet.png").exists()
