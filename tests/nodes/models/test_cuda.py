"""Components on a GPU: where they are, what they cost, and that they are gone after release. Skipped without one."""

import gc

import pytest
import torch
from helpers.direct import BOTH, DirectRun
from sgd.graph.contract.errors import DoesNotFit
from sgd.nodes import text
from sgd.nodes.models.nodes.model_load import load
from sgd.nodes.support import planning_meter

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

FULL = "Wan-AI/Wan2.1-T2V-1.3B-Diffusers"


def run_on(where, **options):
    run = DirectRun()
    run.device, run.options, run.planning = where, options, where == "meta"
    return run


@pytest.fixture
def allocated():
    """Bytes allocated since the test began."""
    gc.collect()  # what tests before this one left in cycles would be freed in the middle of it
    torch.zeros(1, device="cuda")
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
        with planning_meter.runtime(each), planning_meter.meter(each) as meter:
            model = load(each, FULL)
            for part in ("tokenizer", "text_encoder"):
                model.acquire(part, each)
            text.encode(each, BOTH, model, ["a red circle"], negative=[""], max_length=None)
            model.release("text_encoder")
            peaks.append(meter.take()["peak_bytes"] or torch.cuda.max_memory_allocated() - base)
    assert peaks[1] == pytest.approx(peaks[0], rel=0.05)
    assert allocated() < 1e8
