"""Kernels that diffusers lacks, as backends of its dispatch. Only a view with a kernel uses it.

On a CPU, torch's own attention replaces a kernel. On a GPU, the kernels are compared with the formula of attention.
These tests are skipped without a GPU or without the package.
"""

import copy
import pickle
from typing import Any

import pytest
import torch
from helpers.direct import DirectRun, generate, model_of
from sgd.graph.contract.errors import NodeError
from sgd.nodes.models.attention import backend_table, backend_timing, backends, kernels
from sgd.nodes.models.attention.processors import choose, chosen
from sgd.nodes.models.memory.component_views import view
from sgd.nodes.models.transforms.attention_transform import Attention
from sgd.nodes.models.transforms.compile_transform import Compile

STAND_IN, OFF = "_sgd_stand_in", "_sgd_off"


def sdpa(query, key, value, scale, causal):
    query, key, value = (tensor.transpose(1, 2) for tensor in (query, key, value))
    result = torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=causal, scale=scale)
    return result.transpose(1, 2).contiguous()


def off(query, key, value, scale, causal):
    return 2.0 * sdpa(query, key, value, scale, causal)


@pytest.fixture(autouse=True)
def stand_ins(monkeypatch):
    monkeypatch.setattr(kernels, "KERNELS", {**kernels.KERNELS, STAND_IN: sdpa, OFF: off})


@pytest.fixture
def model(wan_folder):
    return model_of(wan_folder, "scheduler")


def acquired(value):
    for part in ("transformer", "text_encoder", "tokenizer", "vae", "scheduler"):
        value.acquire(part, DirectRun())
    return value


def latents(value):
    return generate(value, ["a red circle"], steps=2).states[-1].tensor


def random(*shape, seed=0, device="cpu", dtype=torch.float32):
    generator = torch.Generator(device).manual_seed(seed)
    query, key, value, mean = (torch.randn(shape, generator=generator, device=device) for _ in range(4))
    return [tensor.to(dtype) for tensor in (query, key + mean[:, :1], value)]


def formula(query, key, value, scale=None):
    query, key, value = (tensor.double().transpose(1, 2) for tensor in (query, key, value))
    scores = query @ key.transpose(2, 3) * (query.shape[-1] ** -0.5 if scale is None else scale)
    return (scores.softmax(-1) @ value).transpose(1, 2)


def test_only_the_view_with_a_kernel_uses_it(model):
    from diffusers.models.attention_dispatch import _AttentionBackendRegistry as Registry

    before = Registry.get_active_backend()
    plain = latents(acquired(model))
    wrong = acquired(model.transformed(Attention("transformer", (OFF,))))
    same = acquired(model.transformed(Attention("transformer", (STAND_IN,))))
    assert chosen(wrong.component("transformer")) == {OFF}
    assert chosen(same.component("transformer")) == {STAND_IN}
    assert chosen(model.component("transformer")) == set()
    assert not torch.allclose(latents(wrong), plain, rtol=1e-2), "the kernel is called"
    assert torch.allclose(latents(same), plain, atol=1e-5)
    assert torch.equal(latents(model), plain)
    assert Registry.get_active_backend() == before


def test_a_kernel_does_not_extend_the_list_of_diffusers():
    from diffusers.models.attention_dispatch import AttentionBackendName

    before = list(AttentionBackendName)
    member = kernels.name(STAND_IN)
    assert list(AttentionBackendName) == before
    assert kernels.name("native") is AttentionBackendName.NATIVE
    assert member not in before
    with pytest.raises(ValueError, match="nonsense"):
        kernels.name("nonsense")


def test_a_processor_with_a_kernel_can_be_copied():
    member = kernels.name(STAND_IN)
    assert copy.deepcopy(member) is member
    assert pickle.loads(pickle.dumps(member)) is member
    assert kernels.name(STAND_IN) is member


def test_arguments_of_a_kernel():
    query, key, value = random(2, 5, 3, 8)
    assert torch.equal(backend_timing.attend(STAND_IN, query, key, value), sdpa(query, key, value, None, False))
    from diffusers.models.attention_dispatch import dispatch_attention_fn

    member = kernels.name(STAND_IN)
    scaled = dispatch_attention_fn(query, key, value, scale=0.1, backend=member)
    assert torch.allclose(scaled.double(), formula(query, key, value, 0.1), atol=1e-6)
    causal = dispatch_attention_fn(query, key, value, is_causal=True, backend=member)
    assert torch.allclose(causal[:, :1], value[:, :1])
    with pytest.raises(ValueError, match="mask"):
        dispatch_attention_fn(query, key, value, attn_mask=torch.ones(5, 5, dtype=torch.bool), backend=member)


def test_auto_can_choose_a_kernel(model, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    seconds = iter([2e-3, 1e-3])
    monkeypatch.setattr(backend_timing, "measure", lambda call, device, most: (call(), next(seconds))[1])
    plain = latents(acquired(model))
    value = acquired(model.transformed(Attention("transformer", ("native", OFF, STAND_IN))))
    assert torch.allclose(latents(value), plain, atol=1e-5)
    assert chosen(value.component("transformer")) == {STAND_IN}, "the other kernel does not agree"


def test_components_without_a_choice_of_attention_get_no_kernel():
    with pytest.raises(NodeError, match="no choice of attention"):
        choose(torch.nn.Linear(1, 1), STAND_IN)


@pytest.mark.slow
def test_a_view_with_a_kernel_can_be_compiled(model):
    plain = latents(acquired(model))
    both = model.transformed(Attention("transformer", (STAND_IN,)))
    value = acquired(both.transformed(Compile("transformer", "blocks", "default", False)))
    assert torch.allclose(latents(value), plain, atol=1e-5)


gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def usable(name):
    """The name of one of our kernels in diffusers. Skips the test if this machine cannot use the kernel."""
    backend = backends.named(name)
    assert backend is not None
    reason = backends.machine_problem(backend)
    if reason is not None:
        pytest.skip(reason.message)
    if name == backend_table.SAGE_1.library and backends.chosen("sage") is not backend_table.SAGE_1:
        pytest.skip("version 2 is installed")
    return name


FP8 = "_sgd_flash_3_fp8"
CASES = [("_sgd_sage_1", 0.03), ("_sgd_flash_3", 0.01), (FP8, 0.01), ("_sgd_flash_4", 0.01)]
"""Kernels, with the relative error that they may have. `FP8` may have 1.1 times the error of its roundings too."""


def in_e4m3(tensor, scales):
    return (tensor * scales).to(torch.float8_e4m3fn).double() / scales


def formula_in_e4m3(query, key, value, scale=None):
    """The formula with queries, keys, values around their mean, and weights of the keys, all rounded to e4m3."""
    query, key, value = (tensor.double().transpose(1, 2) for tensor in (query, key, value))
    mean = value.mean(2, keepdim=True)
    each = (query, key, value - mean)
    query, key, value = (in_e4m3(x, 448 / x.abs().amax((2, 3), keepdim=True).clamp_min(1e-12)) for x in each)
    scores = query @ key.transpose(2, 3) * (query.shape[-1] ** -0.5 if scale is None else scale)
    weights = (scores - scores.amax(-1, keepdim=True)).exp()
    return (in_e4m3(weights, 256) @ value / weights.sum(-1, keepdim=True) + mean).transpose(1, 2)


def allowed(name, tolerance, wanted, *operands):
    """The most that the result of a kernel may differ from `wanted`, as a norm."""
    rounding = (formula_in_e4m3(*operands) - wanted).norm() if name == FP8 else 0.0
    return tolerance * wanted.norm() + 1.1 * rounding


def test_the_error_of_rounding_to_e4m3():
    """On an H200 the kernel had 0.0836 here."""
    query, key, value = random(1, 200, 3, 128, dtype=torch.bfloat16)
    wanted = formula(query, key, value, 0.2)
    found = allowed(FP8, 0.0, wanted, query, key, value, 0.2) / 1.1
    assert float(found / wanted.norm()) == pytest.approx(0.084, abs=0.002)


@gpu
@pytest.mark.parametrize(("name", "tolerance"), CASES)
@pytest.mark.parametrize("tokens", [(256, 56), (77, 512), (300, 4100), (1, 1)])
def test_kernels_agree_with_the_formula(name, tolerance, tokens):
    """SageAttention 1 does not mask its padding: 8 of 64 keys here. Uncorrected, the error would be 8 %."""
    query, key, value = random(2, max(tokens), 4, 128, device="cuda", dtype=torch.bfloat16)
    query, key, value = query[:, : tokens[0]], key[:, : tokens[1]], value[:, : tokens[1]]
    before = key.clone()
    result = backend_timing.attend(usable(name), query, key, value)
    wanted = formula(query, key, value)
    assert torch.equal(key, before)
    assert (result.shape, result.dtype) == (query.shape, query.dtype)
    assert (result.double() - wanted).norm() <= allowed(name, tolerance, wanted, query, key, value)


@gpu
@pytest.mark.parametrize(("name", "tolerance"), CASES)
@pytest.mark.parametrize("width", [64, 96, 128])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_kernels_agree_with_the_formula_at_each_width(name, tolerance, width, dtype):
    if name.startswith("_sgd_flash_3") and dtype == torch.float16:
        pytest.skip("the wheel has no float16 kernels")
    backend = backends.named(name)
    if backend is not None and backend.precision == "fp8" and width not in backend.sizes:
        pytest.skip("the backend does not take this width")
    query, key, value = random(1, 200, 3, width, device="cuda", dtype=dtype)
    wanted = formula(query, key, value, 0.2)
    from diffusers.models.attention_dispatch import dispatch_attention_fn

    result = dispatch_attention_fn(query, key, value, scale=0.2, backend=kernels.name(usable(name)))
    assert (result.double() - wanted).norm() <= allowed(name, tolerance, wanted, query, key, value, 0.2)


@gpu
def test_attention_in_fp8_keeps_what_all_values_have_in_common():
    """27,086 keys, as HunyuanVideo has; uncentred values lose a fifth of their common part in the sums of the card."""
    query, key, value = random(1, 27086, 2, 128, device="cuda", dtype=torch.bfloat16)
    value = value + 0.4 * torch.randn(2, 128, device="cuda", dtype=torch.bfloat16)
    result = backend_timing.attend(usable(FP8), query, key, value)
    some = slice(None, None, 500)
    wanted = formula(query[:, some], key, value)
    assert (result[:, some].double() - wanted).norm() <= 0.02 * wanted.norm()


@gpu
@pytest.mark.parametrize("name", [name for name, _ in CASES])
def test_kernels_work_in_a_transformer_compiled_or_not(name):
    from diffusers import WanTransformer3DModel

    torch.manual_seed(0)
    sizes = {"num_attention_heads": 2, "attention_head_dim": 64, "ffn_dim": 128, "num_layers": 2, "text_dim": 32}
    module = WanTransformer3DModel(**sizes).to("cuda", torch.bfloat16).eval().requires_grad_(False)
    inputs: Any = (torch.randn(1, 16, 3, 16, 16), torch.tensor([500]), torch.randn(1, 20, 32))
    inputs = tuple(t.to("cuda", torch.bfloat16 if t.is_floating_point() else t.dtype) for t in inputs)
    made = view(module)
    choose(made, usable(name))
    plain, with_it = module(*inputs).sample.float(), made(*inputs).sample.float()
    assert 0 < (with_it - plain).norm() < 0.05 * plain.norm()
    made.compile_repeated_blocks(fullgraph=True)
    assert (made(*inputs).sample.float() - with_it).norm() < 0.03 * plain.norm()
    assert torch.equal(module(*inputs).sample.float(), plain)
