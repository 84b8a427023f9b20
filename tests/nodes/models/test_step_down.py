"""The next best step where a machine cannot run the rebuilt one: compiled blocks, then diffusers' own. On the CPU."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from helpers.direct import DirectRun, model_of
from helpers.small_vaes import WAN_2_1, hunyuan_vae, wan_vae
from sgd.nodes.models.attention import backends
from sgd.nodes.models.decoders import convolution_choice, decoder_trial, margin_tiles
from sgd.nodes.models.decoders.rebuilt_vae import working_dtype
from sgd.nodes.models.memory.component_views import view
from sgd.nodes.models.nodes import model_optimize
from sgd.nodes.models.nodes.model_load import load
from sgd.nodes.models.nodes.model_optimize import optimize
from sgd.nodes.models.row_kernels import kernel_trial, rows
from sgd.nodes.models.transforms import compiler_check, quantize_choice
from sgd.nodes.models.transforms.optimize_transform import FastDecoder, Optimize

WAN = "Wan-AI/Wan2.1-T2V-1.3B-Diffusers"
NO_IMAGE = "no kernel image is available for execution on the device"
ALL = Optimize("transformer", True, (), True)


@pytest.fixture
def broken_kernels(monkeypatch):
    """A machine on which the first call of a row kernel fails."""

    def fail(*_: Any, **__: Any) -> Any:
        raise RuntimeError(NO_IMAGE)

    monkeypatch.setattr(rows, "norm", fail)


@pytest.fixture
def compiler(monkeypatch):
    """torch's compiler is replaced: it runs the graph as it is. Gives the graphs; a test may make it fail."""
    from torch._inductor import compile_fx

    class Compiler:
        def __init__(self) -> None:
            self.graphs: list[Any] = []
            self.error: Exception | None = None

    made = Compiler()

    def compiled(graph: Any, inputs: Any) -> Any:
        made.graphs.append(graph)
        if made.error is not None:
            for node in list(graph.graph.nodes)[::-1]:  # a pass that fails half way
                if node.op == "call_function":
                    node.target = torch.neg
                    break
            raise made.error
        return graph.forward

    monkeypatch.setattr(compile_fx, "compile_fx", compiled)
    torch._dynamo.reset()
    yield made
    torch._dynamo.reset()


def predict(module: Any) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(1, 16, 2, 4, 4, generator=generator)
    text = torch.randn(1, 8, 32, generator=generator)
    with torch.no_grad():
        return module(hidden, torch.tensor([500]), text, return_dict=False)[0]


def both(wan_folder: Any, transform: Any = ALL) -> tuple[torch.Tensor, torch.Tensor, DirectRun, Any]:
    """The result of diffusers' own step, and that with the transform; the run and the view."""
    run = DirectRun()
    plain = model_of(wan_folder, "transformer")
    value = plain.transformed(transform)
    value.acquire("transformer", run)
    made = value.component("transformer")
    return predict(plain.component("transformer")), predict(made), run, made


def test_kernels_that_run_are_used(wan_folder, compiler):
    plain, made, run, module = both(wan_folder)
    assert torch.allclose(made, plain, atol=1e-5)
    assert run.details == {"rebuilt_blocks": 2}
    assert all("forward" in vars(block) for block in module.blocks)
    assert compiler.graphs == []


def test_without_kernels_the_blocks_are_compiled(wan_folder, compiler, broken_kernels):
    plain, made, run, module = both(wan_folder)
    assert torch.allclose(made, plain, atol=1e-5)
    assert run.details["step"] == f"compiled blocks: the kernels do not run on this machine: {NO_IMAGE}"
    assert run.details["compile_seconds"] > 0
    assert all(block._compiled_call_impl is not None for block in module.blocks)
    assert all("forward" not in vars(block) for block in module.blocks)
    assert len(compiler.graphs) == 1, "one graph for all blocks"
    assert not run.warnings


def test_without_a_compiler_the_step_is_diffusers_own(wan_folder, compiler, broken_kernels, monkeypatch):
    monkeypatch.setattr(compiler_check.shutil, "which", lambda name: None)
    plain, made, run, module = both(wan_folder)
    assert torch.equal(made, plain)
    assert run.details["step"] == (
        f"eager: the kernels do not run on this machine: {NO_IMAGE}; "
        "compiling for a CPU needs a C++ compiler, and this machine has none"
    )
    assert all(block._compiled_call_impl is None for block in module.blocks)


def test_a_compiler_that_fails_leaves_the_blocks_as_they_are(wan_folder, compiler, broken_kernels):
    compiler.error = RuntimeError("gcc: not found")
    plain, made, run, _ = both(wan_folder)
    assert torch.allclose(made, plain, atol=1e-6)
    assert compiler.graphs
    assert run.warnings == ["torch cannot compile the blocks, so they run uncompiled: gcc: not found"]
    assert run.details["step"] == "eager: torch cannot compile the blocks"


def test_more_sizes_than_torch_compiles_do_not_fail(wan_folder, compiler, broken_kernels):
    from torch._dynamo import config

    with config.patch(recompile_limit=1):
        *_, module = both(wan_folder)
        for size in (6, 8):
            given = torch.randn(1, 16, 2, size, 4), torch.tensor([500]), torch.randn(1, 8, 32)
            with torch.no_grad():
                made = module(*given, return_dict=False)[0]
                with torch.compiler.set_stance("force_eager"):
                    expected = module(*given, return_dict=False)[0]
            assert torch.allclose(made, expected, atol=1e-5)


def test_wrong_results_of_kernels_are_found(wan_folder, compiler, monkeypatch):
    monkeypatch.setattr(rows, "norm", lambda x, scale, shift: torch.zeros_like(x))
    plain, made, run, _ = both(wan_folder)
    assert torch.allclose(made, plain, atol=1e-5)
    assert run.details["step"] == "compiled blocks: the kernels give wrong results on this machine"


def test_memory_that_runs_out_is_no_reason_to_step_down(monkeypatch):
    def fail(*_: Any) -> Any:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(rows, "norm", fail)
    with pytest.raises(torch.OutOfMemoryError):
        kernel_trial.problem("cpu", torch.float32, 64)


def test_blocks_of_another_form_are_compiled(wan_folder, compiler, monkeypatch):
    from sgd.nodes.models.rebuilt import wan_blocks

    monkeypatch.setattr(wan_blocks.WanBlock, "fits", lambda self: False)
    plain, made, run, _ = both(wan_folder)
    assert torch.allclose(made, plain, atol=1e-5)
    assert run.details["step"] == "compiled blocks: its blocks differ from those that can be rebuilt"


def test_the_trial_is_in_the_dtype_of_the_rows(wan_folder, monkeypatch):
    tried = []
    monkeypatch.setattr(kernel_trial, "problem", lambda device, dtype, width: tried.append(dtype) or "none")
    module = view(model_of(wan_folder, "transformer").component("transformer"))
    for parameter in module.parameters():
        parameter.data = parameter.data.bfloat16()
    module.scale_shift_table.data = module.scale_shift_table.data.float()  # as diffusers loads it
    replace(ALL, compiled=False).apply(module, DirectRun())
    assert tried == [torch.bfloat16]
    assert next(module.parameters()).dtype == torch.float32


@pytest.mark.parametrize(("build", "operation"), [(wan_vae, "norm_silu"), (hunyuan_vae, "pad")])
def test_a_decoder_tries_a_kernel_of_its_own(monkeypatch, build, operation):
    vae = build(**WAN_2_1 if build is wan_vae else {}).to(torch.bfloat16)
    called, own = [], getattr(decoder_trial, operation)

    def counted(x: torch.Tensor, *rest: Any, **options: Any) -> Any:
        called.append(x.dtype)
        return own(x, *rest, **options)

    monkeypatch.setattr(decoder_trial, operation, counted)
    assert decoder_trial.problem(vae, "meta") is None
    assert called == []
    assert decoder_trial.problem(vae, "cpu") is None
    assert called == [torch.bfloat16] * 2, "the kernel and its twin"
    factors = iter((1, 2))
    monkeypatch.setattr(
        decoder_trial, operation, lambda x, *rest, **options: counted(x * next(factors), *rest, **options)
    )
    assert decoder_trial.problem(vae, "cpu") == "the kernels give wrong results on this machine"


def test_a_decoder_in_float32_is_tried_in_the_dtype_of_its_work():
    vae = wan_vae(**WAN_2_1).float()
    assert working_dtype(vae, torch.device("cuda")) == torch.float16
    assert working_dtype(vae, torch.device("cpu")) == torch.float32
    assert working_dtype(hunyuan_vae().float(), torch.device("cuda")) == torch.float32


def test_a_decoder_steps_down_too(wan_folder, monkeypatch):
    def fail(*_: Any, **__: Any) -> Any:
        raise RuntimeError(NO_IMAGE)

    monkeypatch.setattr(decoder_trial, "norm_silu", fail)
    run = DirectRun()
    vae = view(model_of(wan_folder, "vae").component("vae"))
    FastDecoder("vae").apply(vae, run)
    assert run.details["decode"] == f"eager: the kernels do not run on this machine: {NO_IMAGE}"
    assert "_decode" not in vars(vae)


def test_convolutions_step_down_to_cudnn(wan_folder, monkeypatch):
    def fail(*_: Any) -> Any:
        raise RuntimeError(NO_IMAGE)

    run = DirectRun()
    vae = view(model_of(wan_folder, "vae").component("vae"))
    run.device = "cuda:0"
    monkeypatch.setattr(decoder_trial, "problem", lambda *_: None)
    monkeypatch.setattr(convolution_choice, "_able", lambda number: True)
    monkeypatch.setattr(convolution_choice, "_trial", fail)
    convolution_choice._problem.cache_clear()
    width = vae.decoder.conv_in.out_channels
    monkeypatch.setitem(margin_tiles.TILES, (width, width), margin_tiles.TILES[96, 96])
    FastDecoder("vae").apply(vae, run)
    said = f"{width} to {width} channels: the kernels do not run on this machine: {NO_IMAGE}"
    assert run.details["decode"] == f"rebuilt, but cuDNN computes convolutions of {said}"
    assert "_decode" in vars(vae)
    convolution_choice._problem.cache_clear()


@pytest.mark.parametrize(
    ("kernels", "step"),
    [
        (True, "compiled blocks: WanTransformer3DModel has no rebuilt blocks"),
        (
            False,
            "eager: WanTransformer3DModel has no rebuilt blocks; "
            "compiling for a GPU needs the package triton, which is not installed",
        ),
    ],
)
def test_a_plan_names_the_step_with_the_reasons(monkeypatch, kernels, step):
    monkeypatch.setattr(backends, "gpu", lambda: (8, 6))
    monkeypatch.setattr(backends.packages, "installed", lambda package, module: None)
    monkeypatch.setattr(quantize_choice, "gpu", lambda: (8, 6))
    for module in (model_optimize, compiler_check):
        monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: object() if kernels else None)
    monkeypatch.setattr("sgd.nodes.models.transforms.optimize_transform.REBUILT", ())
    run: Any = DirectRun()
    run.device, run.planning, run.options = "meta", True, {"device": "cuda", "memory_bytes": 80 << 30}
    value = optimize(run, load(run, WAN))
    assert run.details["step"] == step
    [transform] = [t for t in value.transforms if isinstance(t, Optimize)]
    assert (transform.rebuilt, transform.compiled) == (False, kernels)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_real_compiler_gives_the_same_step(wan_folder, broken_kernels):
    torch._dynamo.reset()
    plain, made, run, _ = both(wan_folder)
    assert torch.allclose(made, plain, atol=1e-5)
    assert run.details["compile_seconds"] > 0.1
    assert not run.warnings
