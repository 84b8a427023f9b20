"""`model.quantize`: numbers of 8 bits, their products, views, and the bounds of every family. Runs on a GPU if any."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from helpers import node_facts
from helpers.changed import adapters, difference
from helpers.direct import DirectRun, generate, model_of
from helpers.offloading import watching
from helpers.ours import Pair
from helpers.transformer_cases import CASES, called, on_device, relative, shaken, to, wider
from sgd.graph.contract.errors import NodeError
from sgd.graph.contract.workflow_folders import bundled_workflows
from sgd.nodes.metrics import compare
from sgd.nodes.models.memory.component_views import view
from sgd.nodes.models.memory.offloading import Offload
from sgd.nodes.models.nodes.model_compile import compile
from sgd.nodes.models.nodes.model_expert import expert
from sgd.nodes.models.nodes.model_load import load
from sgd.nodes.models.nodes.model_lora import lora
from sgd.nodes.models.nodes.model_optimize import optimize
from sgd.nodes.models.nodes.model_quantize import quantize
from sgd.nodes.models.rebuilt.rebuilding import rebuild
from sgd.nodes.models.row_kernels import products, quantized_products, quantized_rows, row_twins
from sgd.nodes.models.row_kernels.products import Part
from sgd.nodes.models.row_kernels.quantized_products import QuantizedLinear
from sgd.nodes.models.transforms import sensitive_layers
from sgd.nodes.models.transforms.lora_transform import Lora
from sgd.nodes.models.transforms.optimize_transform import Optimize
from sgd.nodes.models.transforms.quantize_transform import Quantize

WAN = "Wan-AI/Wan2.1-T2V-1.3B-Diffusers"
FORMATS = ("fp8", "int8")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DTYPE = torch.bfloat16 if DEVICE == "cuda" else torch.float32

UNIT = torch.finfo(DTYPE).eps / 2
"""Largest relative error of one rounding to the dtype: 2^-8 for bfloat16, 2^-24 for float32."""

STEP = 2.0**-3
"""Relative distance of the numbers of e4m3, which have three bits of mantissa."""

ERROR = {"fp8": 0.04, "int8": 0.02}
"""Bound of the relative error of one product of normal numbers. Three bits of mantissa round by up to 1/16."""


def normal(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE, DTYPE)


def run_on() -> Any:
    run = DirectRun()
    run.device = DEVICE
    return run


def quantized(layer: Any, format: Any) -> QuantizedLinear:
    return QuantizedLinear.of(layer, format, DEVICE)


def layer_of(inputs: int, outputs: int, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    return torch.nn.Linear(inputs, outputs).to(DEVICE, DTYPE).requires_grad_(False)


@pytest.mark.parametrize("format", FORMATS)
def test_numbers_are_the_nearest_of_their_format(format):
    x = normal(9, 64)
    found = quantized_rows.quantized(x, format)
    assert found.values.dtype == quantized_rows.number_type(format)
    largest = found.values.float().abs().amax(-1)
    assert torch.all(largest == quantized_rows.LARGEST[format]), "the largest value of a row takes the whole range"
    step = found.scales if format == "int8" else (x.float().abs() / 8).clamp_min(found.scales * 2.0**-9)
    assert torch.all((found.floats() - x.float()).abs() <= step / 2 * 1.001)
    assert torch.equal(quantized_rows.quantized(torch.zeros(2, 16), format).floats(), torch.zeros(2, 16))


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("rows", [1, 5, 40])
def test_a_layer_is_near_the_one_of_torch(format, rows):
    layer, x = layer_of(256, 128), normal(2, rows, 256)
    made = quantized(layer, format)
    error = relative(made(x), copy.deepcopy(layer).float()(x.float()))
    assert 1e-4 < error < ERROR[format]
    assert made(x).dtype == DTYPE


@pytest.mark.parametrize("format", FORMATS)
def test_a_product_equals_that_of_the_values_of_its_numbers(format):
    layer, x = layer_of(64, 48), quantized_rows.quantized(normal(33, 64), format)
    made = quantized(layer, format)
    weight = made.weight.double() * made.scale.double()[:, None]
    wanted = (x.values.double() * x.scales.double()) @ weight.t() + layer.bias.double()
    found = quantized_products.product(x, made.weight, made.scale, made.bias)
    assert relative(found, wanted) < (1e-2 if DEVICE == "cuda" else 1e-6)
    out = torch.empty_like(found)
    assert quantized_products.product(x, made.weight, made.scale, made.bias, out) is out
    assert torch.equal(out, found)


def test_values_that_are_not_finite_stay_so():
    layer, x = layer_of(32, 32), normal(4, 32)
    x[1, 3] = float("nan")
    found = quantized(layer, "fp8")(x)
    assert torch.isnan(found[1]).all()
    assert torch.isfinite(found[[0, 2, 3]]).all()


@pytest.mark.parametrize("format", FORMATS)
def test_joined_layers_are_the_layers_side_by_side(format):
    layers = [quantized(layer_of(64, 32, seed), format) for seed in range(3)]
    x = normal(2, 40, 64)
    apart = torch.cat([layer(x) for layer in layers], dim=-1)
    assert torch.equal(products.linear(x, *layers), apart)
    products.join(layers)
    assert products.joined(layers) is not None
    assert relative(products.linear(x, *layers), apart) < 1e-3
    already = quantized_rows.quantized(x, format)
    assert relative(products.linear(already, *layers), apart) < 1e-3


@pytest.mark.parametrize("small", ["both", "first", "none"])
def test_a_feed_forward_of_mixed_parts(small):
    x = normal(2, 24, 64)
    layers: list[tuple[Any, ...]] = [(layer_of(64, 128, seed), layer_of(128, 64, seed + 5)) for seed in range(2)]
    if small != "none":
        layers[0] = tuple(quantized(each, "fp8") for each in layers[0])
    if small == "both":
        layers[1] = tuple(quantized(each, "fp8") for each in layers[1])
    parts = [[Part(0, 10, (layers[0][k],)), Part(10, 24, (layers[1][k],))] for k in range(2)]
    wanted = []
    for piece, (up, down) in zip((x[:, :10], x[:, 10:]), layers, strict=True):
        wanted.append(down(torch.nn.functional.gelu(up(piece), approximate="tanh")))
    share = {"both": 24, "first": 10, "none": 0}[small] / 24  # of the tokens, in fp8
    assert relative(products.feed_forward(x, *parts), torch.cat(wanted, dim=1)) < bound_of_feed_forward(share)


def bound_of_feed_forward(share: float) -> float:
    """Largest relative difference of two feed-forwards, of which one rounds its GELU to the dtype and one does not.

    A rounding of relative size u is u / sqrt(3) as a root mean square. Six differ: those of the first product, the
    GELU and the second product, in each of both. So they differ by sqrt(6 / 3) u if all is in the dtype. Both products
    also sum up to 128 numbers in float32, perhaps in another order.

    Before numbers of 8 bits, the value and the largest of its row differ by roundings to the dtype, together by 2/3 u
    on average, and by that of the sum: by d. A number then rounds to the next one of e4m3 with the probability
    d / step, and differs by a whole step: as a root mean square, by sqrt(d step). `share` of the squares do so.
    """
    sums = math.sqrt(128) * 2.0**-24
    return math.sqrt(6 / 3 * UNIT**2 + 2 * sums**2 + share * (2 / 3 * UNIT + sums) * STEP)


def test_a_norm_in_8_bits_is_the_norm_and_then_the_numbers():
    x, scale, shift = normal(1, 12, 64), normal(1, 2, 64), normal(1, 2, 64, seed=2)
    choices: dict[str, Any] = {"kind": "layer", "eps": 1e-6, "plus_one": True, "first": 5}
    plain = row_twins.norm(x.float(), scale, shift, **choices)
    found = row_twins.norm(x, scale, shift, **choices, format="fp8")
    assert relative(found.floats(), plain) < 0.04
    total, normed = row_twins.add_norm(x, x, None, scale, shift, **choices, format="fp8")
    assert torch.equal(total, x + x)
    assert normed.dtype == x.dtype


def names(value: Any) -> set[str]:
    return {path for path, part in value.named_modules() if isinstance(part, QuantizedLinear)}


class Sized(torch.nn.Module):
    """One block with the names of a Wan block."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        block = torch.nn.Module()
        block.attn1 = torch.nn.Linear(width, width)
        block.ffn = torch.nn.ModuleList([torch.nn.Linear(width, hidden), torch.nn.Linear(hidden, width)])
        self.blocks = torch.nn.ModuleList([block])
        self.proj_out = torch.nn.Linear(width, width)


def test_the_layers_of_the_table_and_odd_widths_stay(monkeypatch):
    monkeypatch.setitem(sensitive_layers.LAYERS, "Sized", sensitive_layers.LAYERS["WanTransformer3DModel"])
    found = sensitive_layers.select(Sized(32, 64))
    assert found.quantized == ("blocks.0.ffn.0", "blocks.0.ffn.1")
    assert found.weights == (2 * 32 * 64, 96)
    assert found.text() == "attn1: published as sensitive"
    odd = sensitive_layers.select(Sized(32, 40))
    assert not odd.quantized
    assert odd.text().endswith("blocks.0.ffn.0, blocks.0.ffn.1: a width is not a multiple of 16")


@pytest.fixture
def model(flux_folder):
    loaded = model_of(flux_folder, "scheduler")
    loaded.release("scheduler")
    return loaded


@pytest.fixture(scope="module")
def flux_folder(tmp_path_factory):
    from helpers import tiny_flux

    folder = tmp_path_factory.mktemp("flux")
    tiny_flux.build().save_pretrained(folder)
    return folder


def test_views_keep_their_own_weights(model, run):
    small = quantize(run, model, format="fp8")
    other = quantize(run, model, format="int8")
    model.acquire("transformer", run)
    before = copy.deepcopy(model.component("transformer").state_dict())
    for one in (small, other):
        one.acquire("transformer", run)
    assert names(small.component("transformer")) == names(other.component("transformer")) != set()
    assert not names(model.component("transformer"))
    after = model.component("transformer").state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items())
    path = min(names(small.component("transformer")))
    types = [one.component("transformer").get_submodule(path).weight.dtype for one in (small, other)]
    assert types == [torch.float8_e4m3fn, torch.int8]
    for one in (small, other, model):
        one.release("transformer")


def test_the_details_name_layers_bytes_and_the_product(model):
    run = DirectRun()
    quantize(run, model)
    assert run.details["quantize"] == "fp8, multiplied as float32: the run is on a CPU"
    assert run.details["stays"].startswith("norm1, norm1_context, norm: modulation")
    assert run.details["quantized"].split()[1] == "layers,"
    run = DirectRun()
    quantize(run, model, format="int8")
    assert run.details["quantize"] == "int8 by torch._int_mm"


def test_the_order_and_twice(model, run, tmp_path):
    made = quantize(run, model)
    with pytest.raises(NodeError, match=r"already went through model\.quantize"):
        quantize(run, made)
    with pytest.raises(NodeError, match=r"model\.lora cannot come after model\.quantize"):
        made.transformed(Lora("transformer", tmp_path / "x.safetensors", 1.0))
    for late in (optimize(run, model), compile(run, model)):
        with pytest.raises(NodeError, match=r"model\.quantize cannot come after"):
            quantize(run, late)


def test_twice_and_a_class_without_a_table_are_found_before_a_run():
    known = {"source": "owner/name", "components": {"transformer": "WanTransformer3DModel"}}
    twice = known | {"transforms": [("quantize", "transformer")]}
    [found] = node_facts.check(quantize, model=twice, component="transformer", format="fp8")
    assert (found.code, found.severity) == ("unsupported", "error")
    assert found.message == "this component already went through model.quantize"
    unknown = known | {"components": {"transformer": "OtherTransformer"}}
    [found] = node_facts.check(quantize, model=unknown, component="transformer", format="fp8")
    assert found.code == "unsupported"
    assert not node_facts.check(quantize, model=known, component="transformer", format="fp8")


def planned(model: Any, transform: Any, run: Any) -> Any:
    """The transformer of a plan, with a transform."""
    made = model.weights.on_meta("transformer")
    transform.apply(made, run)
    return made


def test_a_level_that_times_products_leaves_out_what_is_not_faster():
    module = shaken(wider("flux")).to(DEVICE)
    run = run_on()
    small = view(module)
    Quantize("transformer", "fp8", paying=True).apply(small, run)
    if DEVICE == "cpu":
        assert not names(small)
        assert run.details["not_faster"].endswith("stay as they are: fp8 is not faster here")
    assert run.details["quantized_layers"] == len(names(small))
    run = run_on()
    Quantize("transformer", "fp8").apply(view(module), run)
    assert not run.details, "the node has told the number of layers"


def test_a_plan_counts_the_bytes_of_quantised_weights():
    from sgd.nodes.support import cost_meter

    run: Any = DirectRun()
    run.device, run.planning, run.options = "meta", True, {"device": "cuda", "memory_bytes": 80 << 30}
    live = []
    with cost_meter.meter(run) as counter:
        plain = load(run, "black-forest-labs/FLUX.1-dev")
        for value in (plain, quantize(run, plain)):
            value.acquire("transformer", run)
            live.append(counter.live)
            value.release("transformer")
    largest = 3072 * 15360  # bytes in fp8 of `proj_out` of a single block
    assert counter.peak < live[0] + 2 * largest, "a weight is dropped as soon as its quantised one is there"
    assert names(planned(plain, Quantize("transformer", "fp8", paying=True), run))
    assert live[0] == pytest.approx(23.8e9, rel=0.01)
    assert live[1] == pytest.approx(15.2e9, rel=0.03), "modulation, a quarter of FLUX.1's weights, stays"


BOUND = {"fp8": 0.08, "int8": 0.03}
"""Bound of the relative error of one forward of a tiny transformer, beside the same dtype without quantising."""


def bound_of_another_order(errors: list[float], noise: float) -> float:
    """Largest relative difference of two forwards with the same weights of 8 bits, which round in another order.

    The square of the error of each has a part from the weights, one from the inputs of the layers, and one from the
    dtype. The weights, of about half the square, are the same in both. The roundings of the inputs are at worst
    independent, since a number that rounds to another one in one layer moves the numbers of all later layers by more
    than their step: they add twice the other half. The dtype adds the difference `noise` that the two forwards have
    without 8 bits. A quarter is for the sampling of outputs that are few and depend on each other.

    Args:
        errors: The errors of both forwards.
        noise: The relative difference of such forwards in the dtype alone.
    """
    return 1.25 * math.sqrt((errors[0] ** 2 + errors[1] ** 2) / 2 + noise**2)


def quantized_view(module: Any, format: Any) -> Any:
    small = view(module)
    Quantize("transformer", format).apply(small, run_on())
    return small


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("case", [case for case in CASES if "timestep" not in case])
def test_one_forward_of_each_family_is_near(case, format):
    module = shaken(wider(case)).to(DEVICE)
    if DEVICE == "cuda":
        keep = set(getattr(module, "_keep_in_fp32_modules", None) or ())
        for name, parameter in module.named_parameters():
            if not keep & set(name.split(".")):
                parameter.data = parameter.data.to(DTYPE)
    inputs = {key: on_device(to(value, DTYPE), DEVICE) for key, value in CASES[case][1](1).items()}
    wanted = called(module, inputs)
    small, rebuilt = quantized_view(module, format), quantized_view(module, format)
    found = called(small, inputs)
    assert names(small)
    assert torch.isfinite(found).all()
    assert 1e-5 < relative(found, wanted) < BOUND[format]
    assert rebuild(rebuilt, join=True) == CASES[case][2]
    again = called(rebuilt, inputs)
    assert relative(again, wanted) < BOUND[format]
    plain = view(module)
    rebuild(plain, join=True)
    errors = [relative(each, wanted) for each in (found, again)]
    bound = bound_of_another_order(errors, relative(called(plain, inputs), wanted))
    if DEVICE == "cpu":  # in float32
        bound = min(bound, BOUND[format] / 2)
    assert relative(again, found) < bound, "the same numbers, rounded in another order"
    assert torch.equal(called(module, inputs), wanted), "the component itself is as before"


@pytest.fixture(scope="module")
def embedded():
    """The small model that comes with sgd."""
    return bundled_workflows() / "models" / "tiny-wan"


@pytest.mark.parametrize("steps", [4, pytest.param(20, marks=pytest.mark.slow)])
def test_the_embedded_model_in_fp8_is_near_exact(embedded, steps):
    """PSNR of the decoded clip of `quickstart`, without a gate."""
    run = run_on()
    model = load(run, str(embedded))
    made = {"exact": optimize(run, model, level="exact"), "fp8": quantize(run, model, format="fp8")}
    with torch.no_grad():
        frames = {}
        parts = "tokenizer", "text_encoder", "scheduler", "vae", "transformer"
        for name, value in made.items():
            for part in parts:
                value.acquire(part, run)
            prompt = ["a large red circle moving right on a blue background"]
            size = {"width": 96, "height": 96, "frames": 17}
            frames[name] = generate(value, prompt, **size, steps=steps, scale=4.0, max_length=32).frames
            for part in parts:
                value.release(part)
        found = compare(run, frames["fp8"], frames["exact"])
    assert found.psnr is not None
    print(found)
    assert found.psnr >= 30


def acquired(value: Any) -> Any:
    value.acquire("transformer", DirectRun())
    return value


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    return Pair("flux", tmp_path_factory.mktemp("quantized") / "flux", layers=2)


@pytest.mark.slow
def test_before_compiled_blocks(pair, monkeypatch):
    real = torch.compile
    monkeypatch.setattr(torch, "compile", lambda f, *a, mode=None, **o: real(f, *a, backend="eager", **o))
    torch._dynamo.reset()
    run = DirectRun()
    small = quantize(run, pair.model)
    compiled = compile(run, small)
    for each in (small, compiled):
        acquired(each)
    assert difference(pair, small, compiled) < 1e-5
    for each in (small, compiled):
        each.release("transformer")


def test_after_adapters_and_before_rebuilt_blocks(pair, tmp_path):
    pytest.importorskip("peft")
    run = DirectRun()
    value = lora(run, pair.model, str(adapters(pair.pipeline, tmp_path)), scale=0.7)
    small = quantize(run, value)
    rebuilt = small.transformed(Optimize("transformer", True, ()))
    for each in (value, small, rebuilt):
        acquired(each)
    assert difference(pair, pair.model, value) > 0.05
    assert 1e-5 < difference(pair, value, small) < 0.05
    assert difference(pair, small, rebuilt) < 0.02
    for each in (value, small, rebuilt):
        each.release("transformer")


@pytest.mark.parametrize("granularity", ["blocks", "leaf"])
def test_offloaded(pair, granularity):
    small = acquired(quantize(DirectRun(), pair.model))
    value = quantize(DirectRun(), pair.model).transformed(Offload("transformer", granularity))
    acquired(value)
    with watching(value.component("transformer")) as watched:
        assert difference(pair, small, value, steps=1) == 0
    assert watched.onloads
    assert not watched.early
    for each in (small, value):
        each.release("transformer")


def test_a_plan_counts_the_quantised_blocks_of_an_offloaded_transformer():
    from sgd.nodes.support import cost_meter

    run: Any = DirectRun()
    run.device, run.planning, run.options = "meta", True, {"device": "cuda", "memory_bytes": 80 << 30}
    plain = load(run, WAN)
    placed = Offload("transformer", "blocks", 7)
    live = []
    for value in (plain.transformed(placed), quantize(run, plain).transformed(placed)):
        with cost_meter.meter(run) as counter:
            value.acquire("transformer", run)
            live.append(counter.live)
            value.release("transformer")
    outline = plain.weights.on_meta("transformer")
    Quantize("transformer", "fp8").apply(outline, run)
    assert live[1] == placed.resident(outline) < 0.85 * live[0]


def test_each_expert_of_wan_is_quantised_alone():
    run: Any = DirectRun()
    run.device, run.planning, run.options = "meta", True, {"device": "cuda"}
    model = load(run, "Wan-AI/Wan2.2-T2V-A14B-Diffusers")
    both = quantize(run, quantize(run, model), component="transformer_2")
    assert [(t.kind, t.component) for t in both.transforms] == [
        ("quantize", "transformer"),
        ("quantize", "transformer_2"),
    ]
    found = expert(both, "transformer_2")
    assert [t.kind for t in found.recipe("transformer")] == ["quantize"]
