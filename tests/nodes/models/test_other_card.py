"""Plans for a card that this machine does not have (`--card`): that card decides, not the GPU of this machine."""

from __future__ import annotations

import importlib.util
import json
from typing import Any

import pytest
import torch
from helpers import node_facts
from helpers.direct import DirectRun
from sgd.graph.cli.main import main
from sgd.graph.contract.cards import CARDS, planned_card, planning_for
from sgd.nodes.models.attention import backends
from sgd.nodes.models.decoders import convolution_choice
from sgd.nodes.models.nodes.model_attention import attention
from sgd.nodes.models.nodes.model_compile import compile
from sgd.nodes.models.nodes.model_load import load
from sgd.nodes.models.nodes.model_optimize import optimize
from sgd.nodes.models.nodes.model_quantize import quantize
from sgd.nodes.models.transforms.optimize_transform import Optimize
from sgd.nodes.models.transforms.quantize_transform import Quantize
from sgd.nodes.support import cost_meter
from torch import nn

FLUX = "black-forest-labs/FLUX.1-dev"
HUNYUAN = "hunyuanvideo-community/HunyuanVideo"

CAPABILITIES = {
    (8, 0): {"a100", "a100-80"},
    (8, 6): {"a10", "rtx3060", "rtx3090"},
    (8, 9): {"l4", "l40s", "rtx4070ti", "rtx4080", "rtx4090"},
    (9, 0): {"h100", "h200"},
    (10, 0): {"b200"},
    (12, 0): {"rtx5080", "rtx5090"},
}
"""The rows of NVIDIA's table of CUDA GPUs (https://developer.nvidia.com/cuda-gpus)."""


QUANTIZED = """sgd: 1
nodes:
  model: {uses: model.load, with: {source: sgd:models/tiny-wan, dtype: bfloat16}}
  small: {uses: model.quantize, with: {model: $model, format: FORMAT}}
  text: {uses: text.encode, with: {model: $small, prompt: a red circle, max_length: 32}}
  noise: {uses: latents.noise, with: {model: $small, width: 64, height: 64, frames: 5, seed: 0}}
  schedule: {uses: schedule.make, with: {model: $small, steps: 2}}
  denoise:
    uses: sgd:parts/cfg_denoise
    with: {model: $small, text: $text, latents: $noise, schedule: $schedule, scale: 4}
outputs: {latents: $denoise}
"""


def planned() -> Any:
    run: Any = DirectRun()
    run.device, run.planning = "meta", True
    run.options = {"device": "cuda", "memory_bytes": 80 << 30}
    return run


@pytest.fixture(params=[None, (8, 6), (9, 0)], ids=["no GPU here", "RTX 3090 here", "H100 here"])
def here(request, monkeypatch):
    """A machine without Triton, with FlashAttention 3 and this card."""
    versions = {"torch": "2.11.0+cu130", "fa3-fwd": "0.0.3"}
    monkeypatch.setattr(backends.packages, "installed", lambda package, module: versions.get(package))
    monkeypatch.setattr(backends, "_of_card", lambda number: request.param)
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name == "triton" else find(name, *more)
    )


def test_capabilities_are_those_that_nvidia_publishes():
    assert {name: card.capability for name, card in CARDS.items()} == {
        name: capability for capability, names in CAPABILITIES.items() for name in names
    }


@pytest.mark.parametrize("name", ["rtx3090", "a100", "rtx4090", "h100", "rtx5090"])
def test_fp8_is_planned_where_the_named_card_multiplies_it(here, name):
    able = CARDS[name].capability >= (8, 9)
    run = planned()
    with planning_for(CARDS[name]):
        value = optimize(run, load(run, FLUX), level="fast")
        quantized = planned()
        quantize(quantized, load(quantized, FLUX), format="fp8")
    assert planned_card() is None
    assert any(isinstance(t, Quantize) for t in value.transforms) == able
    assert run.details["step"] == "rebuilt blocks"
    if able:
        assert run.details["quantize"] == "fp8 by torch._scaled_mm"
    else:
        has = "{} has compute capability {}.{}, and e4m3 needs 8.9".format(CARDS[name].title, *CARDS[name].capability)
        assert run.details["quantize"] == f"not used: the {has}"
        assert quantized.details["quantize"] == f"fp8, multiplied as bfloat16: the {has}"
    hopper = CARDS[name].capability == (9, 0)
    assert ("flash3" in run.details["attention"]) == hopper
    assert run.details.get("attention_fp8", "").endswith(
        "" if hopper else "and the {} has {}.{}".format(CARDS[name].title, *CARDS[name].capability)
    )
    assert run.details.get("attention_choice") in (None, "measured at the first call")


def test_a_named_backend_must_work_on_the_named_card(here):
    facts = {"model": {"source": "owner/name", "components": {"transformer": "FluxTransformer2DModel"}}}
    with planning_for(CARDS["h100"]):
        assert node_facts.check(attention, **facts, component="transformer", backend="flash3") == []
        assert node_facts.check(compile, **facts, component="transformer") == []
    with planning_for(CARDS["rtx5090"]):
        [problem] = node_facts.check(attention, **facts, component="transformer", backend="flash4")
        assert "flash-attn-4" in problem.message, "packages are those of this machine"
        [problem] = node_facts.check(attention, **facts, component="transformer", backend="flash3")
        assert problem.message.endswith("(Hopper), and the GeForce RTX 5090 has 12.0")


def test_a_decoder_is_planned_as_rebuilt_without_triton_here(here):
    run = planned()
    with planning_for(CARDS["a100"]):
        optimize(run, load(run, HUNYUAN))
    assert run.details["decode"] == "rebuilt"


@pytest.mark.parametrize("name", CARDS)
def test_the_kernel_of_convolutions_is_planned_where_the_named_card_has_room(name):
    conv = nn.Conv3d(96, 96, 3, device="meta", dtype=torch.float16)
    with planning_for(CARDS[name]):
        made = convolution_choice.chosen(conv, torch.float16)
    assert (made.rows is not None) == (name in ("h100", "h200", "b200"))
    assert convolution_choice.chosen(conv, torch.float16).rows is not None


def test_the_plan_says_the_card_and_the_packages(capsys):
    assert main(["plan", "quickstart", "--card", "rtx3090"]) == 0
    said = "planned for compute capability 8.6, with Triton and this machine's other packages"
    assert said in capsys.readouterr().out.replace("\n  ", " ")
    assert main(["plan", "quickstart", "--card", "rtx3090", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["capability"] == "8.6"
    assert main(["plan", "quickstart", "--memory", "24GiB"]) == 0
    assert "planned for" not in capsys.readouterr().out


RATES = {
    "rtx3060": (None, None),
    "rtx3090": (71, 284),
    "rtx4070ti": (80.2, 320.7),
    "rtx4080": (97.5, 389.9),
    "rtx4090": (165.2, 660.6),
    "rtx5080": (112.6, 450.2),
    "rtx5090": (209.5, 838),
    "a10": (125, 250),
    "a100": (312, 624),
    "a100-80": (312, 624),
    "l4": (121, 242.5),
    "l40s": (362.05, 733),
    "h100": (989.4, 1978.9),
    "h200": (989.4, 1979),
    "b200": (2250, 4500),
}
"""Peaks in bfloat16 and in 8 bits, dense, of NVIDIA's whitepapers and data sheets. In 8 bits, cards compute twice as
fast, and GeForce cards four times, since their products of floats that add up in float32 have half the rate."""


def test_rates_are_those_that_nvidia_publishes():
    assert {name: (card.tflops, card.eight_bit_tflops) for name, card in CARDS.items()} == RATES
    for name, (rate, eight_bit) in RATES.items():
        if rate is not None and eight_bit is not None:
            assert eight_bit / rate == pytest.approx(4 if name.startswith("rtx") else 2, rel=0.025)


def test_the_least_time_counts_products_in_8_bits_at_their_own_rate(tmp_path, capsys):
    def predicted(format):
        file = tmp_path / f"{format}.yaml"
        text = QUANTIZED.replace("FORMAT", format)
        if format == "none":
            text = "".join(line for line in text.splitlines(True) if "quantize" not in line).replace("$small", "$model")
        file.write_text(text, encoding="utf-8")
        assert main(["plan", str(file), "--card", "h100", "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        return found, next(row for row in found["nodes"] if row["type"] == "denoiser.predict")

    _, before = predicted("none")
    assert before["eight_bit_flops"] == 0
    assert before["least_seconds"] == pytest.approx(before["flops"] / 989.4e12)
    for format in ("fp8", "int8"):
        found, row = predicted(format)
        assert row["flops"] == before["flops"]
        assert 0 < row["eight_bit_flops"] < row["flops"], "attention and the embeddings stay as they are"
        floats = row["flops"] - row["eight_bit_flops"]
        assert row["least_seconds"] == pytest.approx(floats / 989.4e12 + row["eight_bit_flops"] / 1978.9e12)
        assert found["least_seconds"] == pytest.approx(sum(each["least_seconds"] for each in found["nodes"]))


class Attends(torch.nn.Module):
    def forward(self, query: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.scaled_dot_product_attention(query, query, query)


def test_attention_that_may_be_in_fp8_counts_at_that_rate():
    """The plan cannot know which backend a run measures as the fastest. Other modules of the plan count as before."""
    fast, exact, run = Attends(), Attends(), planned()
    query, eight_bit = torch.empty(1, 2, 64, 16, device="meta", dtype=torch.bfloat16), []
    with cost_meter.runtime(run), cost_meter.meter(run) as meter:
        Optimize("transformer", False, ("native", "_sgd_flash_3_fp8")).apply(fast, run)
        Optimize("transformer", False, ("native", "_sgd_flash_3")).apply(exact, run)
        for module in (fast, exact):
            module(query)
            taken = meter.take()
            eight_bit.append(taken.get("eight_bit_flops", 0) / taken["flops"])
    assert eight_bit == [1, 0]
