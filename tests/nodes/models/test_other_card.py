"""Plans for a card that this machine does not have (`--card`): that card decides, whatever is here."""

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
from sgd.nodes.models.transforms.quantize_transform import Quantize
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
