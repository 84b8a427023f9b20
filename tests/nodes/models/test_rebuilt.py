"""Rebuilt blocks, through the torch twins: equal to diffusers' blocks, alone and with all else that changes a model."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from helpers import tiny, tiny_flux, tiny_hunyuan_video, tiny_qwen_image, tiny_z_image
from helpers.changed import adapters, difference
from helpers.direct import DirectRun, sample
from helpers.gate_pipelines import FAMILIES
from helpers.offloading import watching
from helpers.ours import Pair, decisions
from helpers.transformer_cases import CASES, called, flux, hunyuan_video, relative, shaken, wan
from sgd.graph.contract.node import Here
from sgd.nodes.cache.methods.taylorseer import taylorseer
from sgd.nodes.cache.methods.teacache import teacache
from sgd.nodes.families.hunyuan_video import unmasked
from sgd.nodes.models.memory.component_views import view
from sgd.nodes.models.memory.offloading import Offload
from sgd.nodes.models.nodes.model_lora import lora
from sgd.nodes.models.rebuilt.rebuilding import BLOCKS, rebuild
from sgd.nodes.models.transforms.attention_transform import Attention
from sgd.nodes.models.transforms.optimize_transform import Optimize

CLOSE = 1e-6
HERE = Here("gate")


@pytest.fixture
def runs(monkeypatch):
    """How many calls of blocks the rebuilt code computed, and how many went to diffusers' code."""
    counts = {"rebuilt": 0, "own": 0}
    for name in list(BLOCKS):
        make = BLOCKS[name]

        def counted(block: Any, once: Any, make: Any = make) -> Any:
            made = make(block, once)
            own = made.own

            def theirs(*args: Any, **kwargs: Any) -> Any:
                counts["own"] += 1
                counts["rebuilt"] -= 1
                return own(*args, **kwargs)

            made.own = theirs
            original = type(made).__call__

            class Counted(type(made)):  # type: ignore[misc]
                def __call__(self, *args: Any, **kwargs: Any) -> Any:
                    counts["rebuilt"] += 1
                    return original(self, *args, **kwargs)

            made.__class__ = Counted
            return made

        monkeypatch.setitem(BLOCKS, name, counted)  # type: ignore[arg-type]
    return counts


@pytest.mark.parametrize("join", [False, True])
@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize("case", CASES)
def test_equals_diffusers_forward(case, rows, join, runs):
    build, inputs, blocks = CASES[case]
    module = shaken(build())
    wanted = called(module, inputs(rows))
    rebuilt = view(module)
    assert rebuild(rebuilt, join=join) == blocks
    assert relative(called(rebuilt, inputs(rows)), wanted) < CLOSE
    assert torch.equal(called(module, inputs(rows)), wanted), "the component itself is as before"
    if case == "wan with any timesteps":
        assert runs == {"rebuilt": 0, "own": blocks}
    else:
        assert runs == {"rebuilt": blocks, "own": 0}, "no block fell back to diffusers' code"


@pytest.mark.parametrize("case", CASES)
def test_error_in_bfloat16_is_no_larger_than_that_of_diffusers(case):
    build, inputs, _ = CASES[case]
    module = shaken(build())
    wanted = called(copy.deepcopy(module).double(), {k: to(v, torch.float64) for k, v in inputs(1).items()})
    half = build().eval().requires_grad_(False)
    half.load_state_dict(module.state_dict())
    half = half.to(torch.bfloat16)
    keep = getattr(half, "_keep_in_fp32_modules", None) or ()
    for name, parameter in half.named_parameters():
        if set(keep) & set(name.split(".")):
            parameter.data = parameter.data.float()
    rebuilt = view(half)
    rebuild(rebuilt, join=True)
    given = {k: to(v, torch.bfloat16) for k, v in inputs(1).items()}
    errors = [relative(called(each, given), wanted) for each in (half, rebuilt)]
    assert 0 < errors[1] <= 1.25 * errors[0]


def to(value: Any, dtype: torch.dtype) -> Any:
    if isinstance(value, list) and value and isinstance(value[0], torch.Tensor):
        return [tensor.to(dtype) for tensor in value]
    return (
        value.to(dtype) if isinstance(value, torch.Tensor) and value.ndim > 1 and value.is_floating_point() else value
    )


WIDER = {
    "flux": (
        lambda: tiny_flux.transformer(True),
        {"attention_head_dim": 64, "num_attention_heads": 3, "axes_dims_rope": [16, 24, 24]},
    ),
    "hunyuan-video": (
        tiny_hunyuan_video.transformer,
        {"attention_head_dim": 64, "num_attention_heads": 3, "rope_axes_dim": (16, 24, 24)},
    ),
    "qwen-image": (
        tiny_qwen_image.transformer,
        {"attention_head_dim": 64, "num_attention_heads": 3, "axes_dims_rope": (16, 24, 24)},
    ),
    "z-image": (tiny_z_image.transformer, {"dim": 192, "n_heads": 3, "n_kv_heads": 3, "axes_dims": [16, 24, 24]}),
    **{
        case: (
            build,
            {"attention_head_dim": 64, "num_attention_heads": 3, "ffn_dim": 256}
            | ({"added_kv_proj_dim": 192} if "encoder" in case else {}),
        )
        for case, (build, _, _) in CASES.items()
        if case.startswith("wan")
    },
}
"""Configurations with heads of a power of two, which the Triton kernel for queries and keys needs."""


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize("case", [case for case in CASES if case != "wan with any timesteps"])
def test_kernels_on_a_gpu_err_no_more_than_diffusers(case, rows, runs):
    """Float32, and bfloat16 beside it; the same blocks through Triton and cuBLASLt."""
    build, inputs, blocks = CASES[case]
    build, config = WIDER[case]
    assert isinstance(config, dict)
    small = build()
    torch.manual_seed(0)
    module = shaken(type(small).from_config({**small.config, **config})).to("cuda")

    def given(dtype: torch.dtype) -> dict[str, Any]:
        return {key: on_gpu(to(value, dtype)) for key, value in inputs(rows).items()}

    wanted = called(module, given(torch.float32))
    rebuilt = view(module)
    rebuild(rebuilt, join=True)
    assert relative(called(rebuilt, given(torch.float32)), wanted) < 1e-5
    keep = set(getattr(module, "_keep_in_fp32_modules", None) or ())
    half = copy.deepcopy(module, {})
    for name, parameter in half.named_parameters():
        if not keep & set(name.split(".")):
            parameter.data = parameter.data.to(torch.bfloat16)
    rebuilt = view(half)
    rebuild(rebuilt, join=True)
    errors = [relative(called(each, given(torch.bfloat16)), wanted) for each in (half, rebuilt)]
    assert 0 < errors[1] <= 1.25 * errors[0]
    assert runs == {"rebuilt": 2 * blocks, "own": 0}


def on_gpu(value: Any) -> Any:
    if isinstance(value, list) and value and isinstance(value[0], torch.Tensor):
        return [tensor.to("cuda") for tensor in value]
    return value.to("cuda") if isinstance(value, torch.Tensor) else value


def test_hunyuan_video_drops_a_mask_that_its_family_drops():
    module = shaken(tiny_hunyuan_video.transformer())
    rebuilt = view(module)
    rebuild(rebuilt, join=False)
    inputs = hunyuan_video(2)  # the second row is masked, which must matter, unless the mask is dropped
    outcomes = []
    for each in (module, rebuilt):
        with unmasked(each):
            outcomes.append(called(each, inputs))
        outcomes.append(called(each, inputs))
    assert relative(outcomes[2], outcomes[0]) < CLOSE
    assert relative(outcomes[3], outcomes[1]) < CLOSE
    assert relative(outcomes[0], outcomes[1]) > 1e-3


def test_layers_that_a_product_may_not_read_keep_diffusers_forward(runs):
    class Quantised(torch.nn.Linear):
        pass

    module = shaken(tiny.wan_transformer())
    inner = module.blocks[0].attn1
    inner.to_q.__class__ = Quantised
    rebuilt = view(module)
    assert rebuild(rebuilt, join=False) == 1
    assert relative(called(rebuilt, wan(1)), called(module, wan(1))) < CLOSE
    assert runs["rebuilt"] == 1


def test_nothing_of_a_call_stays_behind():
    rebuilt = view(shaken(tiny_flux.transformer(True)))
    rebuild(rebuilt, join=False)
    called(rebuilt, flux(1))
    once = rebuilt.transformer_blocks[0].forward.once
    assert once is rebuilt.single_transformer_blocks[1].forward.once
    assert not once._made


@pytest.fixture(scope="module", params=FAMILIES)
def pair(request, tmp_path_factory):
    return Pair(request.param, tmp_path_factory.mktemp("rebuilt") / request.param, layers=6)


def acquired(value):
    value.acquire("transformer", DirectRun())
    return value


def test_a_gate_decides_and_makes_the_same(pair):
    threshold = FAMILIES[pair.family].mixed["dbcache"]
    gates = [taylorseer(HERE, front_blocks=1, threshold=threshold, warmup_steps=4)]
    if pair.family in ("flux", "wan"):
        gates.append(teacache(HERE, coefficients=[1.0, 0.0], threshold=0.3))
    rebuilt = acquired(pair.model.transformed(Optimize("transformer", True, ())))
    plan, start, branches = pair.prepare()
    for gate in gates:
        runs, made = (DirectRun(), DirectRun()), []
        with torch.no_grad():
            for one, run in zip((pair.model, rebuilt), runs, strict=True):
                made.append([state.tensor for state in sample(one, plan, start, branches, gate=gate, run=run)])
        expected, found = map(decisions, runs)
        assert {key: d.computed for key, d in found.items()} == {key: d.computed for key, d in expected.items()}
        for reference, ours in zip(*made, strict=True):
            assert torch.allclose(ours, reference, rtol=0, atol=1e-5 * reference.abs().max().item())
    rebuilt.release("transformer")


def test_adapters_and_attention(pair, tmp_path):
    pytest.importorskip("peft")
    value = lora(DirectRun(), pair.model, str(adapters(pair.pipeline, tmp_path)), scale=0.7)
    rebuilt = value.transformed(Optimize("transformer", True, ())).transformed(
        Attention("transformer", ("_native_math",))
    )
    for each in (value, rebuilt):
        acquired(each)
    assert difference(pair, pair.model, value) > 1e-3
    assert difference(pair, value, rebuilt) <= 1e-5
    for each in (value, rebuilt):
        each.release("transformer")


@pytest.mark.parametrize("granularity", ["blocks", "leaf"])
def test_offloaded(pair, granularity):
    value = pair.model.transformed(Optimize("transformer", True, ())).transformed(Offload("transformer", granularity))
    run = DirectRun()
    value.acquire("transformer", run)
    assert bool(run.details.get("rebuilt_blocks")) == (granularity == "blocks")
    with watching(value.component("transformer")) as watched:
        assert difference(pair, pair.model, value, steps=1) <= 1e-5
    assert watched.onloads
    assert not watched.early
    value.release("transformer")
