"""`model.quantize`: numbers of 8 bits, their products, views, and the bounds of every family. Runs on a GPU if any."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from helpers import node_facts
from helpers.direct import DirectRun, model_of
from helpers.transformer_cases import CASES, called, relative, shaken
from sgd.graph.contract.errors import NodeError
from sgd.nodes.models.memory.component_views import view
from sgd.nodes.models.nodes.model_compile import compile
from sgd.nodes.models.nodes.model_load import load
from sgd.nodes.models.nodes.model_optimize import optimize
from sgd.nodes.models.nodes.model_quantize import quantize
from sgd.nodes.models.rebuilt.rebuilding import rebuild
from sgd.nodes.models.row_kernels import products, quantized_products, quantized_rows, row_twins
from sgd.nodes.models.row_kernels.products import Part
from sgd.nodes.models.row_kernels.quantized_products import QuantizedLinear
from sgd.nodes.models.transforms import sensitive_layers
from sgd.nodes.models.transforms.lora_transform import Lora
from sgd.nodes.models.transforms.quantize_transform import Quantize

FORMATS = ("fp8", "int8")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DTYPE = torch.bfloat16 if DEVICE == "cuda" else torch.float32

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
@pytest.mark.parametrize("rows", [1, 40])
def test_a_layer_is_near_the_one_of_torch(format, rows):
    layer, x = layer_of(256, 128), normal(2, rows, 256)
    made = quantized(layer, format)
    error = relative(made(x), layer.float()(x.float()))
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
    layers = [(layer_of(64, 128, seed), layer_of(128, 64, seed + 5)) for seed in range(2)]
    if small != "none":
        layers[0] = tuple(quantized(each, "fp8") for each in layers[0])
    if small == "both":
        layers[1] = tuple(quantized(each, "fp8") for each in layers[1])
    parts = [[Part(0, 10, (layers[0][k],)), Part(10, 24, (layers[1][k],))] for k in range(2)]
    wanted = []
    for piece, (up, down) in zip((x[:, :10], x[:, 10:]), layers, strict=True):
        wanted.append(down(torch.nn.functional.gelu(up(piece), approximate="tanh")))
    assert relative(products.feed_forward(x, *parts), torch.cat(wanted, dim=1)) < 1e-2 * (
        1 if DEVICE == "cuda" else 0.5
    )


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
    assert run.details["kept"].startswith("norm1, norm1_context, norm: modulation")
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
    assert live[0] == pytest.approx(23.8e9, rel=0.01)
    assert live[1] == pytest.approx(15.2e9, rel=0.03), "modulation, a quarter of FLUX.1's weights, stays"


BOUND = 0.12
"""Bound of the relative error of one forward of a tiny transformer in fp8."""


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("case", CASES)
def test_one_forward_of_each_family_is_near(case, format):
    build, inputs, _ = CASES[case]
    module = shaken(build())
    wanted = called(module, inputs(1))
    small = view(module)
    Quantize("transformer", format).apply(small, DirectRun())
    found = called(small, inputs(1))
    assert torch.isfinite(found).all()
    error = relative(found, wanted)
    print(case, format, len(names(small)), error)
    assert error < BOUND
    assert bool(names(small)) == (error > 0)
    rebuilt = view(module)
    Quantize("transformer", format).apply(rebuilt, DirectRun())
    assert rebuild(rebuilt, join=True) == CASES[case][2]
    assert relative(called(rebuilt, inputs(1)), found) < 0.05
