"""A VAE works in tiles if the file asks for it, or if the whole does not fit into memory.

The tests pretend a size of memory: they replace its query or, while planning, set the option of the plan.
"""

import json
from contextlib import nullcontext

import pytest
import sgd
import torch
from helpers.direct import DirectRun, model_of
from sgd.graph.contract import device
from sgd.graph.contract.errors import DoesNotFit, NodeError
from sgd.nodes import latents, vae
from sgd.nodes.models.memory import tiling
from sgd.nodes.models.nodes.model_load import load
from sgd.nodes.models.repository import dummy
from sgd.nodes.support import cost_meter
from sgd.nodes.values import Frames, Latents, Size

GIB = 1 << 30


@pytest.fixture(autouse=True)
def no_grad():
    with torch.no_grad():
        yield


@pytest.fixture
def memory(monkeypatch):
    """A function that sets the memory of the device in bytes, or None for unknown memory."""
    return lambda size: monkeypatch.setattr(device, "memory_bytes", lambda name: size)


@pytest.fixture
def clip(wan_model):
    """Latents of more than one tile."""
    return latents.noise(wan_model, width=320, height=288, frames=1)


def decode(run, model, clip, **options):
    return vae.decode(model, clip, run=run, **options).tensor


@pytest.mark.parametrize("direction", ["decode", "encode"])
def test_auto_uses_tiles_only_if_the_whole_does_not_fit(wan_model, run, memory, clip, direction):
    def made(**options):
        if direction == "decode":
            return decode(run, wan_model, clip, **options)
        frames = torch.rand(1, 1, 288, 320, 3, generator=torch.Generator().manual_seed(0))
        return vae.encode(wan_model, Frames(frames), run=run, **options).tensor

    whole, tiled = made(tiling="off"), made(tiling="on")
    assert not torch.equal(whole, tiled)
    assert run.details == {}
    assert torch.equal(made(tiling=True), tiled)
    assert torch.equal(made(tiling=False), whole)

    memory(64 * GIB)
    assert torch.equal(made(), whole), "auto is the default"
    assert run.details["tiling"] == "off: it fits"
    memory(GIB)
    assert torch.equal(made(), whole)
    assert run.details["tiling"].startswith("off: it fits, taking ")
    assert run.details["tiling"].endswith(" of 1.00 GiB")
    memory(None)
    assert torch.equal(made(), whole)
    assert run.details["tiling"] == "off"
    assert run.warnings == []

    memory(1 << 20)
    assert torch.equal(made(), tiled)
    assert run.details["tiling"].startswith(f"on: {direction[:-1]}ing without tiles takes ")
    assert run.details["tiling"].endswith("and 1.00 MiB are free")
    (warning,) = run.warnings
    assert "tile by tile" in warning
    assert "`tiling: off` forbids tiles" in warning
    assert not wan_model.component("vae").use_tiling


def test_tiling_is_decided_by_the_bytes_of_a_plan(wan_folder, wan_model, run, memory, clip):
    _, _, counted = planned(wan_folder, None, "off", frames=1)
    for factor, tiled in ((1.12, "off"), (1.08, "on")):
        memory(int(factor * counted))
        decode(run, wan_model, clip)
        assert run.details["tiling"].startswith(f"{tiled}: ")


def test_the_counted_peak_is_not_above_the_measured_peak(wan_model, run, memory, clip):
    """A higher count would tile work that fits. CPU kernels take several times more memory, which is not counted."""
    from torch.profiler import ProfilerActivity, profile

    work = tiling.VaeWork("decoding", run, wan_model, clip.tensor, 0, lambda model, x: model.family.decode(model, x))
    counted = tiling._bytes(work, False)
    memory(64 * GIB)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        decode(run, wan_model, clip, tiling="off")
    changes = [e for e in recorded.profiler.kineto_results.events() if e.name() == "[memory]"]
    live = most = 0
    for event in sorted(changes, key=lambda e: e.start_ns()):
        live += event.nbytes()
        most = max(most, live)
    assert 0 < counted <= most


def test_memory_is_counted_once_for_each_shape(wan_folder, run, memory, clip, monkeypatch):
    model = model_of(wan_folder, "vae")
    memory(1 << 20)
    decode(run, model, clip)
    monkeypatch.setattr(cost_meter, "meter", None)
    decode(run, model, clip)
    with pytest.raises(TypeError):
        decode(run, model, latents.noise(model, width=320, height=272, frames=1))


def test_running_out_of_memory_gives_advice(wan_folder, run, memory, clip, monkeypatch):
    model = model_of(wan_folder, "vae")
    memory(64 * GIB)

    def out_of_memory(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(model.component("vae"), "_decode", out_of_memory)
    with pytest.raises(DoesNotFit, match=r"decoding takes \d.* without tiles, which does not fit .* 64.0 GiB") as error:
        decode(run, model, clip)
    assert error.value.help.startswith("set `tiling: on`, or choose a smaller size")
    with pytest.raises(DoesNotFit, match=r"decoding does not fit") as error:
        decode(run, model, clip, tiling="on")
    assert "tiling" not in error.value.help

    def another(*_, **__):
        raise RuntimeError("shapes")

    monkeypatch.setattr(model.component("vae"), "_decode", another)
    with pytest.raises(RuntimeError, match="shapes"):
        decode(run, model, clip)


def test_tiling_a_vae_without_tiles_is_an_error(wan_folder, run, memory, clip):
    model = model_of(wan_folder, "vae")
    del model.component("vae").use_tiling
    memory(64 * GIB)
    whole = model.component("vae")
    with pytest.raises(NodeError, match="cannot work tile by tile"):
        decode(run, model, clip, tiling="on")
    assert not hasattr(whole, "use_tiling")


VAES = {
    "AutoencoderKLWan": ({}, 5),
    "AutoencoderKLQwenImage": ({}, 1),
    "AutoencoderKLHunyuanVideo": ({}, 5),
    "AutoencoderKL": (
        {
            "block_out_channels": (128, 256, 512, 512),
            "down_block_types": ("DownEncoderBlock2D",) * 4,
            "up_block_types": ("UpDecoderBlock2D",) * 4,
            "layers_per_block": 2,
            "latent_channels": 16,
        },
        None,
    ),
}


@pytest.mark.parametrize("name", VAES)
@pytest.mark.parametrize("side", [32, 128])
def test_plenty_is_more_memory_than_any_vae_takes(name, side):
    """VAEs of full size, in float32, with few frames, which take the most memory for each pixel."""
    import diffusers

    config, frames = VAES[name]
    run = DirectRun()
    run.device, run.planning = "meta", True
    module = dummy.meta_module(getattr(diffusers, name), config, torch.float32)
    for count in {1, frames or 1}:
        shape = (1, 16, side, side) if frames is None else (1, 16, count, side, side)
        with cost_meter.runtime(run), cost_meter.meter(run), cost_meter.attempt() as attempt:
            made = module.decode(torch.empty(shape, device="meta"), return_dict=False)[0]
        pixels = made.numel() // 3
        assert 0 < 2 * attempt.above < tiling.ENOUGH_PER_PIXEL * pixels


# While planning


def planned(folder, memory, tiled, width=320, height=288, frames=9):
    run = DirectRun()
    run.device, run.planning, run.options = "meta", True, {"device": "cuda", "memory_bytes": memory}
    model = load(run, str(folder), dtype="float32")
    size = Size(width, height, frames)
    with cost_meter.runtime(run), cost_meter.meter(run) as meter:
        model.acquire("vae", run)
        shape = model.family.latent_shape(size, 1, {"vae": model.config("vae")})
        clip = Latents(torch.empty(shape, device="meta"), "wan", size)
        before = meter.take()["live_bytes"]
        made = vae.decode(model, clip, tiling=tiled, run=run)
        taken = meter.take()
        del made
        assert meter.take()["live_bytes"] == before
    return run, taken["flops"], taken["peak_bytes"] - before


@pytest.mark.slow
def test_a_plan_counts_the_chosen_way_and_no_attempt(wan_folder):
    _, whole_flops, whole_peak = planned(wan_folder, None, "off")
    _, tiled_flops, tiled_peak = planned(wan_folder, None, "on")
    assert tiled_peak < whole_peak
    assert tiled_flops > whole_flops
    run, flops, peak = planned(wan_folder, 64 * GIB, "auto")
    assert (flops, peak) == (whole_flops, whole_peak)
    assert run.details["tiling"] == "off: it fits"
    little = int(0.9 * whole_peak)
    run, flops, peak = planned(wan_folder, little, "auto")
    assert (flops, peak) == (tiled_flops, tiled_peak)
    assert run.details["tiling"].startswith("on: decoding without tiles takes ")
    assert len(run.warnings) == 1
    run, flops, peak = planned(wan_folder, None, "auto")
    assert (flops, peak) == (whole_flops, whole_peak)
    assert run.details["tiling"] == "off"

    run, flops, peak = planned(wan_folder, little, "off")
    assert (flops, peak) == (whole_flops, whole_peak)
    assert "`tiling: on` would take " in run.warnings[0]
    assert run.details["tiled_peak_bytes"] < whole_peak + run.details["vae"]["bytes"]


def test_a_plan_of_several_ranks_takes_the_choice_of_rank_0(wan_folder, monkeypatch):
    """The parts of ranks take unequal memory."""
    tiled = planned(wan_folder, None, "on", frames=1)[1:]
    answers = iter([False, True])
    monkeypatch.setattr(DirectRun, "agree", lambda run, value: next(answers))
    assert planned(wan_folder, 64 * GIB, "auto", frames=1)[1:] == tiled


@pytest.mark.slow
def test_tiles_that_save_no_memory_are_not_used(wan_folder, wan_model, run, memory):
    """The tiles of this narrow VAE overlap, and take more memory than they save."""
    options = {"width": 320, "height": 288, "frames": 17}
    assert planned(wan_folder, None, "on", **options)[2] > planned(wan_folder, None, "off", **options)[2]
    told, _, _ = planned(wan_folder, 30 << 20, "auto", **options)
    assert told.details["tiling"] == "off: tiles would not take less"
    told, _, _ = planned(wan_folder, 30 << 20, "off", **options)
    assert "tiled_peak_bytes" not in told.details
    memory(30 << 20)
    wide = latents.noise(wan_model, **options)
    assert torch.equal(decode(run, wan_model, wide), decode(run, wan_model, wide, tiling="off"))
    assert run.details["tiling"] == "off: tiles would not take less"
    assert run.warnings == told.warnings == []


def test_tiles_are_not_tried_if_the_frames_alone_do_not_fit(wan_folder):
    """Planning millions of tiles would take hours."""
    run, _, _ = planned(wan_folder, GIB, "auto", width=160_000, height=160_000, frames=1)
    assert run.details["tiling"] == "off"
    assert run.warnings == []


@pytest.mark.parametrize("tiled", ["on", "off"])
def test_a_plan_that_traces_each_shape_once_counts_every_tile(wan_folder, tiled, monkeypatch):
    short = planned(wan_folder, None, tiled)[1:]
    monkeypatch.setattr(tiling, "traced_once", lambda owner, name: nullcontext())
    assert planned(wan_folder, None, tiled)[1:] == short


# In workflow files

FILE = """
sgd: 1
inputs: {tiling: {type: bool, default: true}, when: {enum: [auto, off], default: auto}}
nodes:
  model: {uses: model.load, with: {source: SOURCE, dtype: float32}}
  noise: {uses: latents.noise, with: {model: $model, width: 320, height: 288}}
  one: {uses: vae.decode, with: {model: $model, latents: $noise, tiling: $tiling}}
  two: {uses: vae.decode, with: {model: $model, latents: $noise, tiling: $when}}
  saved: {uses: image.save, with: {frames: $one, path: one.png}}
  other: {uses: image.save, with: {frames: $two, path: two.png}}
outputs: {saved: $saved, other: $other}
"""


def test_tiling_in_a_file_is_a_word_or_a_bool(wan_folder, tmp_path, memory):
    file = tmp_path / "f.yaml"
    file.write_text(FILE.replace("SOURCE", str(wan_folder)))
    memory(1 << 20)
    done = sgd.run(sgd.compile(file), out=tmp_path / "out", device="cpu")
    assert done.status == "done"
    rows = {row["name"]: row for row in done.record["nodes"]}
    assert "tiling" not in rows["one"]["detail"]
    assert rows["two"]["detail"]["tiling"].startswith("on: ")
    (warning,) = [w for w in done.record["warnings"] if "tile by tile" in w]
    assert warning.startswith("two: decoding")
    assert json.loads((done.folder / "run.json").read_text())["warnings"] == done.record["warnings"]
    assert (done.folder / "one.png").read_bytes() == (done.folder / "two.png").read_bytes()
    for bad in ("perhaps", "1"):
        file.write_text(FILE.replace("SOURCE", str(wan_folder)).replace("$tiling", bad))
        with pytest.raises(sgd.Problems, match='not one of "auto", "on", "off", true, false'):
            sgd.compile(file)
    file.write_text(FILE.replace("{type: bool, default: true}", "{enum: [auto, never]}"))
    with pytest.raises(
        sgd.Problems, match=r"takes auto \| on \| off \| true \| false, but `\$tiling` is auto \| never"
    ):
        sgd.compile(file)
