"""`model.optimize`: its choices on machines and models, and its place among the other transforms."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from helpers import node_facts
from helpers.direct import DirectRun, model_of
from sgd.graph.contract.errors import NodeError
from sgd.nodes.models.attention import attention_target, backends
from sgd.nodes.models.attention.centred_e4m3 import centred_e4m3
from sgd.nodes.models.memory.offloading import Offload
from sgd.nodes.models.nodes import model_optimize
from sgd.nodes.models.nodes.model_attention import attention
from sgd.nodes.models.nodes.model_compile import compile
from sgd.nodes.models.nodes.model_load import load
from sgd.nodes.models.nodes.model_offload import offload
from sgd.nodes.models.nodes.model_optimize import optimize
from sgd.nodes.models.nodes.model_quantize import quantize
from sgd.nodes.models.transforms import optimize_transform, quantize_choice, sensitive_layers
from sgd.nodes.models.transforms.attention_transform import Attention
from sgd.nodes.models.transforms.compile_transform import Compile
from sgd.nodes.models.transforms.lora_transform import Lora
from sgd.nodes.models.transforms.optimize_transform import FastDecoder, Optimize, no_fast_decoder, not_rebuilt
from sgd.nodes.models.transforms.quantize_transform import Quantize

WAN = "Wan-AI/Wan2.1-T2V-1.3B-Diffusers"
WIDE = {"num_attention_heads": 12, "attention_head_dim": 128}
MODEL = {"source": "owner/name", "components": {"transformer": "WanTransformer3DModel", "vae": "V"}}


@pytest.fixture
def model(wan_folder):
    loaded = model_of(wan_folder, "scheduler")
    loaded.release("scheduler")
    return loaded


@pytest.fixture
def hopper(monkeypatch):
    """A machine with one H100, Triton, and FlashAttention 3 from PyPI."""
    versions = {"torch": "2.11.0+cu130", "fa3-fwd": "0.0.3", "triton": "3.6.0"}
    monkeypatch.setattr(backends.packages, "installed", lambda package, module: versions.get(package))
    for module in (backends, quantize_choice):
        monkeypatch.setattr(module, "gpu", lambda: (9, 0))
    monkeypatch.setattr(model_optimize.importlib.util, "find_spec", lambda name: object())
    return versions


def planned(device: str = "auto") -> Any:
    run: Any = DirectRun()
    run.device, run.planning = "meta", True
    run.options = {"device": device, "memory_bytes": 80 << 30}
    return run


def transform(value: Any) -> Optimize:
    found = [t for t in value.transforms if isinstance(t, Optimize)]
    assert len(found) == 1
    return found[0]


def test_on_a_cpu_it_changes_nothing_and_says_so(model, run):
    value = optimize(run, model)
    assert run.details == {
        "step": "eager: the run is on a CPU",
        "attention": "sdpa",
        "decode": "eager: the run is on a CPU",
        "encode": "eager: the run is on a CPU",
    }
    assert transform(value) == Optimize("transformer", False, ())
    for one in (model, value):
        one.acquire("transformer", run)
    blocks = value.component("transformer").blocks
    assert all("forward" not in vars(block) for block in blocks)
    assert not run.warnings


def test_a_plan_for_a_gpu_names_the_rebuilt_blocks_and_the_candidates(hopper):
    run = planned()
    value = optimize(run, load(run, WAN))
    assert run.details["step"] == "rebuilt blocks"
    assert run.details["attention"] == "the fastest of sdpa, cudnn, flash3"
    assert transform(value).candidates == ("native", "_native_cudnn", "_sgd_flash_3")


def test_a_plan_for_the_cpu_of_a_machine_with_a_gpu(hopper):
    run = planned("cpu")
    optimize(run, load(run, WAN))
    assert run.details["step"] == "eager: the run is on a CPU"
    assert run.details["attention"] == "sdpa"


def test_eager_is_diffusers_own_path(hopper):
    run = planned()
    value = optimize(run, load(run, WAN), level="eager")
    assert (run.details["step"], run.details["attention"]) == ("eager", "sdpa")
    assert transform(value) == Optimize("transformer", False, ())


@pytest.mark.parametrize(
    ("class_name", "config", "device", "kernels", "reason"),
    [
        ("WanTransformer3DModel", WIDE, "cuda", True, None),
        ("WanTransformer3DModel", WIDE, "cpu", True, "the run is on a CPU"),
        ("WanTransformer3DModel", WIDE, "cuda", False, "the package triton is not installed"),
        ("ZImageTransformer2DModel", {"dim": 3840, "n_heads": 30}, "cuda", True, None),
        ("ZImageTransformer2DModel", {"dim": 32}, "cuda", True, "a width of 32 is too small to gain by it"),
        ("LTXVideoTransformer3DModel", WIDE, "cuda", True, "LTXVideoTransformer3DModel has no rebuilt blocks"),
    ],
)
def test_blocks_are_rebuilt_where_that_works_and_pays(class_name, config, device, kernels, reason):
    assert not_rebuilt(class_name, config, device, kernels) == reason


REBUILT = {"step": "rebuilt blocks", "decode": "rebuilt", "encode": "rebuilt"}
COMPILED = {"step": "diffusers' own blocks, compiled, in place of rebuilt blocks"}
LEAF = {"step": "eager, in place of rebuilt blocks: transformer is offloaded"}
OWN_VAE = dict.fromkeys(("decode", "encode"), "eager: the VAE is offloaded")


@pytest.mark.parametrize(
    ("change", "options", "said"),
    [
        (compile, {}, COMPILED),
        (offload, {"granularity": "leaf"}, LEAF),
        (offload, {}, {}),
        (offload, {"component": "vae"}, OWN_VAE),
        (attention, {"backend": "sdpa"}, {}),
    ],
)
def test_a_node_that_replaces_a_choice_says_so(hopper, change, options, said):
    first, later = planned("cuda"), planned("cuda")
    change(later, optimize(first, load(first, WAN)), **options)
    assert {key: first.details[key] for key in REBUILT} == REBUILT, "nodes that read this value use it"
    assert {key: later.details[key] for key in REBUILT if key in later.details} == said


@pytest.mark.parametrize(("options", "said"), [({"granularity": "leaf"}, LEAF), ({"component": "vae"}, OWN_VAE)])
def test_a_choice_after_offloading_is_told_as_it_is(hopper, options, said):
    run = planned("cuda")
    optimize(run, offload(run, load(run, WAN), **options))
    assert {key: run.details[key] for key in REBUILT} == REBUILT | said


def test_compiled_blocks_are_replaced_by_offloading_only():
    made = Optimize("transformer", False, (), compiled=True)
    assert made.replaced(Offload("transformer", "blocks")) == {
        "step": "eager, in place of compiled blocks: transformer is offloaded"
    }
    assert not made.replaced(Compile("transformer", "blocks", "default", False))
    assert not Optimize("transformer", False, ()).replaced(Offload("transformer", "leaf"))


def test_details_say_that_a_vae_that_does_not_fit_keeps_its_decoder():
    run = planned("cuda")
    value = load(run, WAN).transformed(FastDecoder("vae", encodes=True), run)
    value.weights._chosen["vae"] = Offload("vae")
    value.acquire("vae", run)
    assert {key: run.details[key] for key in OWN_VAE} == OWN_VAE
    value.release("vae")


def test_a_later_node_replaces_a_choice(hopper):
    run = planned("cuda")
    made = optimize(run, load(run, WAN))
    assert transform(made).compiled, "where the kernels do not run"
    assert transform(attention(run, made, backend="sdpa")) == Optimize("transformer", True, (), True)
    compiled = compile(run, made)
    assert not transform(compiled).rebuilt, "torch compiles diffusers' own blocks"
    assert not transform(compiled).compiled
    offloaded = made.transformed(Offload("transformer", "blocks"))
    assert (transform(offloaded).rebuilt, transform(offloaded).compiled) == (True, False)
    assert transform(compiled).candidates == transform(made).candidates


def test_the_order_of_transforms(model, run, tmp_path):
    made = optimize(run, model)
    with pytest.raises(NodeError, match=r"already went through model\.optimize"):
        optimize(run, made)
    with pytest.raises(NodeError, match=r"model\.optimize cannot come after model\.attention") as error:
        optimize(run, attention(run, model, backend="sdpa"))
    assert error.value.help == "the order is model.lora, model.quantize, model.optimize, model.attention, model.compile"
    with pytest.raises(NodeError, match=r"model\.lora cannot come after model\.optimize"):
        made.transformed(Lora("transformer", tmp_path / "x.safetensors", 1.0))


def test_the_order_is_checked_before_a_run():
    for earlier, problem in (("attention", 1), ("compile", 1), ("lora", 0), ("offload", 0), ("optimize", 1)):
        known = MODEL | {"transforms": [(earlier, "transformer")]}
        found = node_facts.check(optimize, model=known, component="transformer", level="exact")
        assert len([p for p in found if p.severity == "error"]) == problem, earlier


def test_the_wheel_of_flash_attention_3_is_refused_by_a_torch_that_it_was_not_tried_with(hopper):
    assert backends.machine_problem(backends.chosen("flash3")) is None
    hopper["torch"] = "2.12.1+cu130"
    found = backends.machine_problem(backends.chosen("flash3"))
    assert found is not None
    assert found.code == "unavailable"
    assert found.message == "fa3-fwd was tried with torch 2.11, and torch 2.12.1+cu130 is installed"


def test_the_wheel_takes_bfloat16_and_text_encoders_do_not_use_it(hopper):
    half = attention_target.Target("transformer", WIDE, "WanTransformer3DModel", "float16", "cuda")
    assert [backend.name for backend in half.exact_backends()] == ["sdpa", "cudnn"]
    encoder = attention_target.Target("text_encoder", {}, "LlamaModel", "bfloat16", "cuda")
    found = encoder.problem(backends.chosen("flash3"))
    assert found is not None
    assert found.message.startswith("flash3 needs flash_attn_3, which is not installed")


def test_the_attention_of_optimize_is_used(model, run):
    value = model.transformed(Optimize("transformer", True, ("_native_math",)))
    for one in (model, value):
        one.acquire("transformer", run)
    transformer = value.component("transformer")
    assert transformer.blocks[0].attn1.processor._attention_backend.value == "_native_math"
    assert model.component("transformer").blocks[0].attn1.processor._attention_backend is None
    assert isinstance(transformer, torch.nn.Module)


def decoder_of(value: Any) -> FastDecoder | None:
    found = [t for t in value.transforms if isinstance(t, FastDecoder)]
    assert len(found) <= 1
    return found[0] if found else None


def test_the_decoder_is_rebuilt_once_on_a_gpu(hopper, model):
    run = planned("cuda")
    value = optimize(run, model)
    assert decoder_of(value) == FastDecoder("vae", encodes=True)
    assert run.details["decode"] == "rebuilt"
    assert decoder_of(optimize(planned("cuda"), model, level="eager")) is None


@pytest.mark.parametrize(
    ("kind", "device", "kernels", "reason"),
    [
        ("AutoencoderKLWan", "cuda:1", True, None),
        ("AutoencoderKLHunyuanVideo", "cuda", True, None),
        ("AutoencoderKLWan", "cpu", True, "the run is on a CPU"),
        ("AutoencoderKLWan", "cuda", False, "the package triton is not installed"),
        ("AutoencoderKL", "cuda", True, "AutoencoderKL has no rebuilt decoder"),
    ],
)
def test_reasons_for_a_vaes_own_decoder(kind, device, kernels, reason):
    assert no_fast_decoder(kind, device, kernels) == reason


def test_an_offloaded_vae_keeps_its_own_decoder(model):
    assert FastDecoder("vae").before(Optimize("vae", False, ())) == FastDecoder("vae")
    offloaded = model.transformed(FastDecoder("vae")).transformed(Offload("vae", "blocks"))
    assert decoder_of(offloaded) == FastDecoder("vae", rebuilt=False)


def test_vae_decode_takes_the_rebuilt_decoder(wan_folder, run):
    from sgd.nodes.latents import noise
    from sgd.nodes.vae import decode

    plain = model_of(wan_folder, "vae")
    fast = plain.transformed(FastDecoder("vae"))
    fast.acquire("vae", run)
    assert run.details["decode"] == "rebuilt"
    latents = noise(plain, width=64, height=64, frames=9, seed=3)
    one, other = decode(plain, latents), decode(fast, latents)
    assert not torch.equal(one.tensor, other.tensor)  # summed in another order: the rebuilt decoder ran
    assert float((one.tensor - other.tensor).abs().max()) < 2e-5
    fast.release("vae")
    assert torch.equal(decode(plain, latents).tensor, one.tensor)


def test_the_classes_are_those_that_are_rebuilt(run):
    from sgd.nodes.models.decoders import rebuilt_vae

    for name in optimize_transform.DECODERS:
        made = type(name, (torch.nn.Module,), {"_decode": lambda self, z: None, "_encode": lambda self, x: None})()
        made.decoder = torch.nn.Identity()
        assert rebuilt_vae.rebuild(made, pytest.fail) is None


def test_details_name_the_encoder_too(hopper):
    run = planned("cuda")
    optimize(run, load(run, WAN))
    assert (run.details["decode"], run.details["encode"]) == ("rebuilt", "rebuilt")
    run = planned("cuda")
    optimize(run, load(run, "hunyuanvideo-community/HunyuanVideo"))
    assert run.details["decode"] == "rebuilt"
    assert "encode" not in run.details


def test_the_memory_that_tiling_counts_is_that_of_the_rebuilt_decoder(wan_folder, run, monkeypatch):
    from sgd.nodes.models.decoders.wan_decoder import WanDecoder
    from sgd.nodes.models.memory import tiling

    traced = []
    chunks = WanDecoder.chunks
    monkeypatch.setattr(
        WanDecoder, "chunks", lambda self, latents: traced.append(latents.is_meta) or chunks(self, latents)
    )
    plain = model_of(wan_folder, "vae")
    fast = plain.transformed(FastDecoder("vae"))
    fast.acquire("vae", run)
    latents = torch.randn(1, plain.config("vae")["z_dim"], 5, 16, 16)

    def needs(model: Any) -> int:
        work = tiling.VaeWork("decoding", run, model, latents, 17 * 128 * 128, lambda m, t: m.family.decode(m, t))
        return tiling._bytes(work, False)

    assert needs(plain) != needs(fast)
    assert traced == [True]
    fast.release("vae")


FLUX = "black-forest-labs/FLUX.1-dev"


def test_fast_on_a_gpu_quantises_and_tries_attention_in_fp8(hopper):
    run = planned()
    value = optimize(run, load(run, FLUX), level="fast")
    assert [t.kind for t in value.transforms] == ["quantize", "optimize"]
    assert run.details["quantize"] == "fp8 by torch._scaled_mm"
    assert run.details["attention"] == "the fastest of sdpa, cudnn, flash3, flash3 (fp8)"
    assert transform(value).candidates[-1] == "_sgd_flash_3_fp8"
    assert "modulation" in run.details["stays"]
    count = len(sensitive_layers.select(value.weights.on_meta("transformer")).quantized)
    assert run.details["quantized"].startswith(f"up to {count} layers, ")
    assert run.details["quantized"].endswith("; a run times them")


def test_fast_keeps_what_is_sensitive_and_what_is_quantised(hopper):
    run = planned()
    value = optimize(run, load(run, WAN), level="fast")
    assert run.details["attention_fp8"] == "not used: published as sensitive for this family"
    assert transform(value).candidates == ("native", "_native_cudnn", "_sgd_flash_3")
    assert run.details["stays"] == "attn1, attn2: published as sensitive"
    run = planned()
    value = optimize(run, quantize(run, load(run, FLUX), format="int8"), level="fast")
    assert run.details["quantize"] == "as model.quantize before"
    assert [t.format for t in value.transforms if isinstance(t, Quantize)] == ["int8"]


def test_fast_is_exact_where_nothing_is_faster(hopper, monkeypatch):
    for module in (backends, quantize_choice):
        monkeypatch.setattr(module, "gpu", lambda: (8, 0))
    run = planned("cuda")
    value = optimize(run, load(run, FLUX), level="fast")
    assert [t.kind for t in value.transforms] == ["optimize"]
    assert run.details["quantize"] == "not used: this GPU has compute capability 8.0, and e4m3 needs 8.9"
    assert run.details["attention_fp8"].startswith("not used: flash3 needs an NVIDIA GPU of compute capability 9.x")
    run = planned("cpu")
    value = optimize(run, load(run, FLUX), level="fast")
    assert run.details["quantize"] == "not used: the run is on a CPU"
    assert value.transforms == optimize(planned("cpu"), load(run, FLUX)).transforms


def test_attention_in_fp8_alone(hopper):
    run = planned("cuda")
    value = attention(run, load(run, WAN), backend="flash3", precision="fp8")
    assert run.details["attention"] == "flash3 (fp8)"
    chosen = value.transforms[-1]
    assert isinstance(chosen, Attention)
    assert chosen.candidates == ("_sgd_flash_3_fp8",)
    with pytest.raises(NodeError, match="sdpa has no choice of precision"):
        attention(run, load(run, WAN), backend="sdpa", precision="fp8")
    found = node_facts.check(attention, model=MODEL, component="transformer", backend="auto", precision="fp8")
    assert [(p.code, p.place) for p in found] == [("bad-value", "precision")]


def test_the_numbers_of_attention_in_fp8_centre_the_values():
    """With values that have a common part, a mean that is subtracted and added again leaves small errors only."""
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(2, 256, 3, 64, generator=generator) for _ in range(3))
    value = value + 4 * torch.randn(3, 64, generator=generator)
    made = centred_e4m3(query, key, value)
    scales = made.query_scales, made.key_scales, made.value_scales
    numbers = made.query, made.key, made.value
    heads = [each.float() * scale[:, None, :, None] for each, scale in zip(numbers, scales, strict=True)]
    sdpa = torch.nn.functional.scaled_dot_product_attention
    found = sdpa(*(each.transpose(1, 2) for each in heads)).transpose(1, 2) + made.means[:, None]
    wanted = sdpa(*(each.transpose(1, 2) for each in (query, key, value))).transpose(1, 2)
    assert float((found - wanted).norm() / wanted.norm()) < 0.004
    assert float(made.value.float().abs().max()) <= 448
    again = sdpa(heads[0].transpose(1, 2), heads[1].transpose(1, 2), value.transpose(1, 2)).transpose(1, 2)
    assert float((found - again).norm() / again.norm()) < 0.003
