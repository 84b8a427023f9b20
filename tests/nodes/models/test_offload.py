"""`model.offload`. Here the host is the device, so that nothing moves; tests/helpers/offloading.py watches what would.

On a GPU: test_cuda_offload.py.
"""

import gc
import weakref

import pytest
import sgd
import torch
from helpers import node_facts
from helpers.direct import DirectRun, model_of
from helpers.offloading import watching
from sgd.graph.compiler.plan import Acquire
from sgd.graph.contract.errors import DoesNotFit, NodeError
from sgd.nodes.models.memory import block_groups
from sgd.nodes.models.memory.offloading import Offload
from sgd.nodes.models.nodes.model_attention import attention
from sgd.nodes.models.nodes.model_compile import compile
from sgd.nodes.models.nodes.model_load import load
from sgd.nodes.models.nodes.model_offload import offload
from sgd.nodes.models.transforms.attention_transform import Attention
from sgd.nodes.models.transforms.compile_transform import Compile
from sgd.nodes.support import cost_meter, device_memory

FULL = "Wan-AI/Wan2.1-T2V-14B-Diffusers"
MODEL = {
    "source": "owner/name",
    "components": {"transformer": "WanTransformer3DModel", "text_encoder": "UMT5EncoderModel", "vae": "V"},
}


@pytest.fixture
def model(wan_folder):
    loaded = model_of(wan_folder, "scheduler")
    loaded.release("scheduler")
    return loaded


@pytest.fixture
def cuda():
    """A run that is planned for a GPU of a size that a test sets."""
    run = DirectRun()
    run.device, run.planning, run.options = "meta", True, {"device": "cuda", "memory_bytes": 80 << 30}
    return run


def inputs(batch=1):
    generator = torch.Generator().manual_seed(0)
    return {
        "hidden_states": torch.randn(batch, 16, 2, 4, 4, generator=generator),
        "timestep": torch.tensor([500] * batch),
        "encoder_hidden_states": torch.randn(batch, 8, 32, generator=generator),
    }


def predict(value):
    with torch.no_grad():
        return value.component("transformer")(**inputs(), return_dict=False)[0]


def problems(**known):
    return [(p.code, p.parameter, p.severity) for p in node_facts.check(offload, **{"model": MODEL, **known})]


def test_values_with_and_without_it_hold_weights_of_their_own(model, run):
    offloaded, leaves = (model.transformed(Offload("transformer", g)) for g in ("blocks", "leaf"))
    for value in (model, offloaded, leaves):
        value.acquire("transformer", run)
    views = [value.component("transformer") for value in (model, offloaded, leaves)]
    assert len({id(p) for view in views for p in view.parameters()}) == 3 * len(list(views[0].parameters()))
    plain = predict(model)
    for value in (offloaded, leaves, model, offloaded):
        assert torch.equal(predict(value), plain)
    assert not list(block_groups.groups(views[0])), "the component on the device got hooks"
    offloaded.release("transformer")
    assert torch.equal(predict(leaves), plain)
    assert torch.equal(predict(model), plain)
    with pytest.raises(NodeError, match="not in memory"):
        offloaded.component("transformer")


def test_values_offloaded_alike_share_weights_and_take_turns(model, run):
    one = model.transformed(Offload("transformer"))
    other = one.transformed(Attention("transformer", ("_native_math",)))
    for value in (one, other):
        value.acquire("transformer", run)
    first, second = one.component("transformer"), other.component("transformer")
    assert first is not second
    assert [id(p) for p in first.parameters()] == [id(p) for p in second.parameters()]
    assert {id(b) for b in first.buffers()}.isdisjoint(id(b) for b in second.buffers())
    plain = predict(one)
    for value in (other, one):
        with watching(value.component("transformer")) as watched:
            assert torch.allclose(predict(value), plain, atol=1e-5)
        assert watched.onloads
        assert not watched.early
    other.release("transformer")
    assert torch.equal(predict(one), plain)


@pytest.mark.parametrize("place", [0, 1, 2])
def test_it_may_stand_anywhere(model, run, place, monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    transforms = [Attention("transformer", ("native",)), Compile("transformer", "whole", "default", False)]
    transforms.insert(place, Offload("transformer"))
    value = model
    for transform in transforms:
        value = value.transformed(transform)
    assert [t.kind for t in value.recipe("transformer")] == ["attention", "offload", "compile"]
    for one in (value, model):
        one.acquire("transformer", run)
    with watching(value.component("transformer")) as watched:
        assert torch.equal(predict(value), predict(model))
    assert watched.onloads
    assert not watched.early
    with pytest.raises(NodeError, match=r"already went through model\.offload"):
        value.transformed(Offload("transformer", "leaf"))


@pytest.mark.parametrize("region", ["blocks", "whole"])
def test_compiled(model, run, region, monkeypatch):
    """Traced by torch, whose `eager` backend then runs what was traced; the hooks break the trace and still run."""
    real = torch.compile
    monkeypatch.setattr(torch, "compile", lambda f, *a, mode=None, **k: real(f, *a, backend="eager", **k))
    torch._dynamo.reset()
    value = compile(run, model.transformed(Offload("transformer")), region=region)
    for one in (value, model):
        one.acquire("transformer", run)
    onloads = []
    for _, group in block_groups.groups(value.component("transformer")):
        monkeypatch.setattr(group, "onload_", lambda group=group, real=group.onload_: (onloads.append(group), real()))
    for _ in range(2):
        onloads.clear()
        assert torch.allclose(predict(value), predict(model), atol=1e-6)
        assert len(onloads) == len(list(block_groups.groups(value.component("transformer"))))
    torch._dynamo.reset()


@pytest.mark.parametrize(("granularity", "form"), [("leaf", "lora"), ("blocks", "lora"), ("blocks", "dora")])
def test_with_lora(model, run, tmp_path, granularity, form):
    """Adapters in blocks, embeddings and the head."""
    from helpers.lora_layouts import adapted as random_adapters
    from helpers.lora_layouts import transformer
    from safetensors.torch import save_file
    from sgd.nodes.models.nodes.model_lora import lora

    tensors, _ = random_adapters(transformer("wan").state_dict(), "wan", "ComfyUI", form)
    save_file(tensors, tmp_path / "one.safetensors")
    file = str(tmp_path / "one.safetensors")
    adapted = lora(run, model, file)
    value = lora(run, model.transformed(Offload("transformer", granularity)), file)
    for one in (adapted, value, model):
        one.acquire("transformer", run)
    assert not torch.equal(predict(adapted), predict(model))
    with watching(value.component("transformer")) as watched:
        made = predict(value)
    assert torch.equal(made, predict(adapted))
    assert "blocks.0.attn1.to_q.weight" in watched.used
    assert not watched.early


def test_released_and_gone(model, run):
    value = model.transformed(Offload("transformer"))
    value.acquire("transformer", run)
    view = value.component("transformer")
    kept = [weakref.ref(view), weakref.ref(view.blocks[0]), weakref.ref(next(view.parameters()))]
    predict(value)
    del view
    value.release("transformer")
    assert [one() for one in kept] == [None] * 3
    assert not model.weights._held


def interrupt(*_):
    raise KeyboardInterrupt


def test_a_call_that_fails_leaves_nothing_behind(model, run):
    value = model.transformed(Offload("transformer"))
    other = value.transformed(Attention("transformer", ("native",)))
    for one in (value, other, model):
        one.acquire("transformer", run)
    view = value.component("transformer")
    plain = predict(model)
    interrupted = view.blocks[1].register_forward_pre_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        predict(value)
    interrupted.remove()
    with watching(view) as watched:
        assert torch.equal(predict(value), plain), "the next call works"
    assert not watched.early
    interrupted = view.blocks[1].register_forward_pre_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        predict(value)
    interrupted.remove()
    assert list(block_groups.groups(view))
    value.release("transformer")
    assert not list(block_groups.groups(view)), "hooks are taken off"
    assert all(t.device.type == "cpu" for t in view.parameters())
    assert torch.equal(predict(other), plain)
    for one in (other, model):
        one.release("transformer")
    kept = weakref.ref(next(view.parameters()))
    del view, one
    gc.collect()
    assert kept() is None


def test_hooks_go_if_a_later_transform_cannot_be_applied(model, run, monkeypatch):
    from diffusers import WanTransformer3DModel

    monkeypatch.setattr(WanTransformer3DModel, "_repeated_blocks", None)
    value = compile(run, model.transformed(Offload("transformer")))
    with pytest.raises(NodeError, match="does not name its repeated blocks"):
        value.acquire("transformer", run)
    assert not model.weights._held
    assert not len(model.weights.views)
    gc.collect()  # the error kept the frames that it went through
    left = [m for m in gc.get_objects() if isinstance(m, WanTransformer3DModel) and m.device.type == "cpu"]
    assert not any(hasattr(m.blocks[0], "_diffusers_hook") for m in left)


def test_on_a_cpu_there_is_nothing_to_offload_to(model, run):
    value = offload(run, model)
    assert value is model
    assert run.warnings == ["the run is on a CPU: transformer is already in host memory and is not offloaded"]
    assert run.details == {"offload": "nothing: the run is on a CPU"}
    planned = DirectRun()
    planned.device, planned.planning, planned.options = "meta", True, {"device": "cpu"}
    assert offload(planned, model) is model
    assert planned.warnings == run.warnings


def test_settings_that_do_not_go_together(model, run):
    assert problems(component="transformer", granularity="blocks", blocks=4, stream=False, low_memory=False) == []
    assert problems(component="transformer", granularity="leaf", blocks=1, stream=True, low_memory=True) == []
    bad = {
        "blocks": {"granularity": "leaf", "blocks": 2},
        "low_memory": {"granularity": "blocks", "blocks": 1, "stream": False, "low_memory": True},
    }
    for parameter, settings in bad.items():
        assert problems(component="transformer", **settings) == [("bad-value", parameter, "error")]
        with pytest.raises(NodeError):
            offload(run, model, **settings)
    assert problems(component="transformer", blocks=2, stream=True) == [("bad-value", "blocks", "error")]
    assert problems(component="vae", stream=True) == [("unsupported", "stream", "error")]
    assert problems(component="text_encoder_2") == [("bad-value", "component", "error")]
    described = node_facts.describe(offload, model=MODEL, component="transformer")
    assert described["transforms"] == [["offload", "transformer"]]
    assert problems(model=described, component="transformer") == [("unsupported", "model", "error")]
    assert list(node_facts.check(attention, model=described, component="transformer", backend="sdpa")) == []
    qwen = {"components": {"vae": "AutoencoderKLQwenImage"}}
    assert problems(model=qwen, component="vae") == [("unsupported", "component", "error")]


def test_the_class_that_is_refused_would_be_wrong():
    """If diffusers learns to hand caches on, this fails, and the class can be taken off the list."""
    from diffusers import AutoencoderKLQwenImage

    torch.manual_seed(0)
    vae = AutoencoderKLQwenImage(base_dim=8, z_dim=4, dim_mult=[1, 2], num_res_blocks=1, temperal_downsample=[True])
    clip = torch.randn(1, 3, 9, 16, 16)
    with torch.no_grad():
        expected = vae.eval().encode(clip).latent_dist.mode()
        block_groups.attach(vae, "blocks", 1, "cpu")
        made = vae.encode(clip).latent_dist.mode()
    assert made.shape != expected.shape or not torch.allclose(made, expected, atol=1e-3)


# While planning


def live(run, *values):
    """Bytes that the transformers of values take on the device, as a plan counts them."""
    with cost_meter.meter(run) as meter:
        for value in values:
            value.acquire("transformer", run)
        taken = meter.take()["live_bytes"]
        for value in values:
            value.release("transformer")
        gc.collect()
        assert meter.take()["live_bytes"] == 0
    return taken


@pytest.mark.parametrize("blocks", [1, 7])
def test_a_plan_counts_bytes_on_the_device(cuda, blocks):
    """Against a sum by name: the largest group of blocks, and everything that is in none."""
    model = load(cuda, FULL)
    value = offload(cuda, model, blocks=blocks)
    module = model.weights.on_meta("transformer")
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    size = {name: t.numel() * t.element_size() for name, t in tensors.items()}
    one = sum(n for name, n in size.items() if name.startswith("blocks.0."))
    rest = sum(n for name, n in size.items() if not name.startswith("blocks."))
    assert live(cuda, value) == blocks * one + rest
    assert live(cuda, model) == 40 * one + rest
    assert live(cuda, model, value) == 40 * one + rest + blocks * one + rest, "they hold components of their own"
    assert cuda.details["offload"] == f"transformer: {blocks} block{'s' * (blocks > 1)} a time"
    streamed = offload(cuda, model, stream=True)
    assert live(cuda, streamed) == 2 * one + rest
    leaf = offload(cuda, model, granularity="leaf")
    assert live(cuda, leaf) < one


def test_operations_on_offloaded_weights_are_counted_and_their_bytes_are_not(cuda):
    model = load(cuda, FULL)
    taken = []
    for value in (model, offload(cuda, model)):
        with cost_meter.runtime(cuda), cost_meter.meter(cuda) as meter:
            value.acquire("transformer", cuda)
            held = meter.take()["live_bytes"]
            value.component("transformer")(
                torch.empty(1, 16, 3, 30, 52, device="meta", dtype=torch.bfloat16),
                torch.ones(1, device="meta"),
                torch.empty(1, 512, 4096, device="meta", dtype=torch.bfloat16),
            )
            counted = meter.take()
            taken.append((counted["flops"], counted["peak_bytes"] - held))
            value.release("transformer")
    assert taken[0] == taken[1]


def test_a_component_that_does_not_fit_is_offloaded_with_a_warning(cuda):
    cuda.options["memory_bytes"] = 24 << 30
    model, forbidden = load(cuda, FULL), load(cuda, FULL, offload="off")
    assert live(cuda, model) < 2 << 30
    (warning,) = [w for w in cuda.warnings if "transformer" in w]
    assert "transformer takes 26.7 GiB, and the device has 24.0 GiB free" in warning
    assert "`offload: off` of model.load forbids offloading" in warning
    assert cuda.details["transformer"]["offloaded"] == "1 block a time"
    assert cuda.details["transformer"]["device_bytes"] < 2 << 30
    assert live(cuda, forbidden) > 24 << 30
    cuda.options["memory_bytes"] = 80 << 30
    assert live(cuda, model) > 24 << 30, "it is decided anew each time"
    cuda.options["device"], cuda.options["memory_bytes"] = "cpu", 24 << 30
    assert live(cuda, model) > 24 << 30, "on a CPU never"
    cuda.options = {"device": "cuda"}
    assert live(cuda, model) > 24 << 30, "nothing is decided where the memory is not known"


def test_a_run_that_has_too_little_room_loads_to_the_host(wan_folder, monkeypatch):
    """The run says it is on a GPU, and the query of its memory is answered for it. Nothing is called: there is none."""
    run = DirectRun()
    run.device = "cuda"
    monkeypatch.setattr(device_memory, "free", lambda run: 10_000)
    model = load(run, str(wan_folder), dtype="float32")
    other = attention(run, model, backend="sdpa")
    for value in (model, other):
        value.acquire("transformer", run)
        view = value.component("transformer")
        assert {p.device.type for p in view.parameters()} == {"cpu"}
        assert {str(group.onload_device) for _, group in block_groups.groups(view)} == {"cuda"}
    assert sum("is offloaded to host memory" in w for w in run.warnings) == 1
    for value in (other, model):
        value.release("transformer")
    assert not model.weights._held
    assert model.weights.chosen("transformer") is None


def test_a_failed_load_advises_a_plan_that_fits(wan_folder, monkeypatch):
    run = DirectRun()
    run.device = "cuda"
    model = load(run, str(wan_folder), dtype="float32", offload="off")
    monkeypatch.setattr(device_memory, "free", lambda run: 10_000)

    def out_of_memory(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("sgd.nodes.models.repository.reading.read", out_of_memory)
    with pytest.raises(
        DoesNotFit, match=r"transformer of .* needs 0\.0 GB and does not fit on the device: 0\.0 GB"
    ) as error:
        model.acquire("transformer", run)
    assert "model.offload (0.00 GB at a time) or dtype bfloat16 (0.0 GB) or a smaller model" in error.value.help


# In workflow files

FILE = """
sgd: 1
nodes:
  model: {uses: model.load, with: {source: SOURCE, dtype: float32}}
  placed: {uses: model.offload, with: {model: $model}}
  text: {uses: text.encode, with: {model: $placed, prompt: a, max_length: 8}}
  noise: {uses: latents.noise, with: {model: $placed, width: 32, height: 32, frames: 5}}
  schedule: {uses: schedule.make, with: {model: $model, steps: 2}}
  split: {uses: cfg.split, with: {conditioning: $text, scale: 1.0}}
  denoise:
    for: {step: $schedule}
    carry: {latents: $noise}
    body:
      velocity: {uses: denoiser.predict, with: {model: $placed, latents: $latents, step: $step, branches: $split}}
      guided: {uses: cfg.merge, with: {predictions: $velocity, branches: $split}}
      next: {uses: schedule.step, with: {schedule: $schedule, step: $step, latents: $latents, velocity: $guided}}
    yield: {latents: $next}
  saved: {uses: latents.save, with: {latents: $denoise, path: l.safetensors}}
outputs: {saved: $saved}
"""


def test_the_component_is_not_brought_to_the_device_for_the_value_before(wan_folder, tmp_path):
    """The other components are held together with that value, as with every transform."""
    file = tmp_path / "f.yaml"
    file.write_text(FILE.replace("SOURCE", str(wan_folder)))
    plan = sgd.compile(file)
    acquired = {(step.holder.node, step.part) for step in plan.steps if isinstance(step, Acquire)}
    assert ("placed", "transformer") in acquired
    assert ("model", "transformer") not in acquired
    assert {("placed", "text_encoder"), ("model", "text_encoder")} <= acquired


def test_a_run_on_a_cpu_says_so_in_its_record(wan_folder, tmp_path):
    file = tmp_path / "f.yaml"
    file.write_text(FILE.replace("SOURCE", str(wan_folder)))
    done = sgd.run(sgd.compile(file), out=tmp_path / "out", device="cpu")
    assert done.status == "done"
    (warning,) = [w for w in done.record["warnings"] if "offload" in w]
    assert warning.startswith("placed: the run is on a CPU")
    (row,) = [row for row in done.record["nodes"] if row["name"] == "placed"]
    assert row["detail"]["offload"] == "nothing: the run is on a CPU"
