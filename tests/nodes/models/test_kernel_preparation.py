"""Kernels that are built in advance are those that the rebuilt blocks and decoders of full-size models launch.

No GPU is needed. Tests compare Triton's keys of kernels, for tensors of full widths, and leave out matrix products.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from helpers.compiled_kernels import compiling
from helpers.direct import DirectRun
from helpers.interpreted import needs_triton
from sgd.graph.contract.node import Run
from sgd.graph.contract.process_state import exclusive
from sgd.nodes.families.base import DenoiserInput
from sgd.nodes.models.decoders import (
    convolution_choice,
    decoder_trial,
    frame_operations,
    margin_convolution,
    norm_operations,
    rebuilt_vae,
)
from sgd.nodes.models.model import Model
from sgd.nodes.models.nodes.model_load import load
from sgd.nodes.models.rebuilt.loop_values import BranchCall, LoopSteps, Values, telling
from sgd.nodes.models.repository import dummy
from sgd.nodes.models.row_kernels import heads, kernel_trial, quantized_products, rows
from sgd.nodes.models.row_kernels.quantized_products import QuantizedLinear
from sgd.nodes.models.row_kernels.quantized_rows import QuantizedRows
from sgd.nodes.models.transforms import kernel_preparation
from sgd.nodes.models.transforms.optimize_transform import FastDecoder, Optimize
from sgd.nodes.models.transforms.quantize_transform import Quantize
from sgd.nodes.support import cost_meter, kernel_launch
from torch.utils._python_dispatch import TorchDispatchMode

HOPPER = 90
WAN, FLUX = "Wan-AI/Wan2.1-T2V-1.3B-Diffusers", "black-forest-labs/FLUX.1-dev"
HUNYUAN = "hunyuanvideo-community/HunyuanVideo"
TRANSFORMERS = (
    WAN,
    "Wan-AI/Wan2.1-I2V-14B-480P-Diffusers",
    "Wan-AI/Wan2.2-TI2V-5B-Diffusers",
    FLUX,
    HUNYUAN,
    "Qwen/Qwen-Image",
    "Tongyi-MAI/Z-Image-Turbo",
)
PRODUCTS = ("mm", "addmm", "bmm", "baddbmm", "convolution", "_scaled_dot", "_scaled_mm")


class NoProducts(TorchDispatchMode):
    """Matrix products and attention give tensors of the right shape with any values."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not func._schema.name.removeprefix("aten::").startswith(PRODUCTS):
            return func(*args, **kwargs)
        if "out" in kwargs:
            return kwargs["out"]
        made = func(*(torch.utils._pytree.tree_map(self.outline, each) for each in args), **kwargs)
        return torch.utils._pytree.tree_map(self.real, made)

    @staticmethod
    def outline(value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta")

    @staticmethod
    def real(value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype)


def module_without_values(cls: Any, config: Any, dtype: torch.dtype, device: str, **options: Any) -> torch.nn.Module:
    module = dummy.empty_module(cls, config, dtype)
    for owner in module.modules():
        for name, parameter in list(owner.named_parameters(recurse=False)):
            made = torch.empty(parameter.shape, dtype=parameter.dtype)
            setattr(owner, name, torch.nn.Parameter(made, requires_grad=False))
    return module.eval()


@pytest.fixture
def hopper(monkeypatch) -> None:
    """A run on `cuda` takes the machine for one with a card of capability 9.0."""
    monkeypatch.setattr(rows, "_capability", lambda device: (HOPPER // 10, HOPPER % 10))
    monkeypatch.setattr(convolution_choice, "_able", lambda number: True)
    monkeypatch.setattr(convolution_choice, "_number", lambda device: 0)
    monkeypatch.setattr(kernel_preparation, "_prepared", set())
    monkeypatch.delenv("TRITON_CACHE_DIR", raising=False)


@contextmanager
def named(monkeypatch) -> Iterator[list[Any]]:
    """Triton's kernels by their keys, without compiling them."""
    from triton.runtime.jit import JITFunction

    functions: set[Any] = set()

    def name(self: Any, key: str, signature: Any, device: int, constants: Any, options: Any, *rest: Any) -> Any:
        source = SimpleNamespace(constants={}, signature=signature)
        metadata = SimpleNamespace(num_warps=options.num_warps, shared=0)
        made = SimpleNamespace(src=source, metadata=metadata, hash=key, asm={}, _run=print)
        self.device_caches[device][0][key] = made
        functions.add(self)
        return made

    with monkeypatch.context() as patch, compiling(HOPPER) as made:
        patch.setattr(JITFunction, "_do_compile", name)
        try:
            yield made
        finally:
            for function in functions:
                function.device_caches.pop(HOPPER, None)


def loaded(source: str) -> Model:
    """A model for a GPU, from its configurations."""
    run = DirectRun()
    run.device, run.planning, run.options = "meta", True, {"device": "cuda"}
    model = load(run, source)
    return replace(model, weights=replace(model.weights, device="cuda", kind="dummy"))


def quantized_product(x: Any, weight: Any, scale: Any, bias: Any, out: Any = None) -> torch.Tensor:
    """`quantized_products.product` without its work."""
    return torch.empty(*x.values.shape[:-1], len(weight), dtype=x.dtype) if out is None else out


def quantized_layer(layer: torch.nn.Linear, format: Any, device: str) -> QuantizedLinear:
    """`QuantizedLinear.of` without its work."""
    rows = QuantizedRows(
        torch.empty(layer.weight.shape, dtype=torch.float8_e4m3fn),
        torch.ones(len(layer.weight), 1),
        format,
        layer.weight.dtype,
    )
    return QuantizedLinear(rows, layer.bias)


def on_cuda() -> Run:
    run = Run()
    run.device = "cuda"
    return run


def on_cpu(monkeypatch, model: Model, part: str) -> Model:
    """The model with one block in each list of blocks, and tensors on the CPU that go to the kernels."""
    for module in (frame_operations, norm_operations, margin_convolution):
        monkeypatch.setattr(module, "on_kernels", lambda x: True)
    monkeypatch.setattr(rows, "on_kernels", lambda x: not x.is_meta)
    monkeypatch.setattr(rows, "writes_e4m3", lambda device: True)
    monkeypatch.setattr(heads, "writes_e4m3", lambda device: True)
    monkeypatch.setattr(kernel_trial, "disagreement", lambda both: both() and None)
    working_dtype = rebuilt_vae.working_dtype
    for module in (rebuilt_vae, decoder_trial):
        monkeypatch.setattr(module, "working_dtype", lambda vae, device: working_dtype(vae, torch.device("cuda")))
    monkeypatch.setattr(rebuilt_vae, "everywhere", lambda finite: True)
    monkeypatch.setattr(dummy, "dummy_module", module_without_values)
    monkeypatch.setattr(quantized_products, "product", quantized_product)
    monkeypatch.setattr(QuantizedLinear, "of", quantized_layer)
    monkeypatch.setitem(sys.modules, "fa3_fwd._C", ModuleType("fa3_fwd._C"))
    attention = SimpleNamespace(fwd=lambda query, *others: (torch.empty(query.shape, dtype=torch.bfloat16),))
    monkeypatch.setattr(torch.ops, "fa3_fwd", attention, raising=False)
    weights = replace(model.weights, device="cpu", kind="dummy")
    depth = {key: 1 for key in model.family.blocks.lists.values() if key in model.config(part)}
    weights.reconfigure(model.name(part), {**model.config(part), **depth})
    return replace(model, weights=weights)


def real(value: Any) -> Any:
    return torch.zeros(value.shape, dtype=value.dtype) if isinstance(value, torch.Tensor) and value.is_meta else value


def input_of(model: Model, config: Any, count: int) -> DenoiserInput:
    given = kernel_preparation._input(model, config, count)
    assert given is not None
    text, image = (None if p is None else {k: real(v) for k, v in p.items()} for p in (given.text, given.image))
    assert text is not None
    time = replace(given.step, value=torch.tensor(1000.0))
    return replace(given, latents=real(given.latents), text=text, image=image, step=time)


def predicted(model: Model, transformer: Any) -> None:
    """Steps with one branch after the other, and with both in one batch; with and without values of all steps."""
    family = model.family
    for count in (1, 2):
        given, alone, prompt = input_of(model, transformer.config, count), Values(), Values()
        times = family.timesteps(torch.tensor([1000.0, 500.0]), torch.float32)
        for index in (0, 1):
            steps = LoopSteps(index, 2, lambda times=times: times, alone, pytest.fail)
            shared = Values(uses=2)
            for _ in range(2):
                with telling(transformer, BranchCall(count, 1, prompt, shared, steps)):
                    family.predict(model, transformer, given)
        with telling(transformer, BranchCall(count, count)):
            family.predict(model, transformer, given)


def prepared(model: Model, part: str) -> None:
    """Build the kernels as a run does, in a thread."""
    thread = threading.Thread(target=model.prefetch, args=(part, on_cuda()))
    thread.start()
    thread.join()


def lacking(made: list[Any]) -> set[str]:
    """The kernels that were launched and not built before."""
    built = {(each.module, each.key) for each in made if not each.launched}
    launched = {(each.module, each.key): each for each in made if each.launched}
    assert launched
    return {f"{each.module}.{each.name}: {key}" for key, each in launched.items() if key not in built}


@needs_triton
@pytest.mark.parametrize("level", ["exact", "fast"])
@pytest.mark.parametrize("source", TRANSFORMERS)
def test_a_step_needs_no_other_kernels(source, level, hopper, monkeypatch):
    model, attention = loaded(source), "native"
    if level == "fast":
        model, attention = model.transformed(Quantize("transformer", "fp8")), "_sgd_flash_3_fp8"
    model = model.transformed(Optimize("transformer", True, (attention,)))
    with named(monkeypatch) as made:
        prepared(model, "transformer")
        assert made
        monkeypatch.setattr(kernel_preparation, "CLIP", (96, 64, 5))
        model, run = on_cpu(monkeypatch, model, "transformer"), DirectRun()
        with cost_meter.runtime(run), NoProducts():
            model.acquire("transformer", run)
            assert run.details["rebuilt_blocks"]
            predicted(model, model.component("transformer"))
    assert lacking(made) == set()


@needs_triton
@pytest.mark.parametrize("source", [WAN, "Wan-AI/Wan2.2-TI2V-5B-Diffusers", HUNYUAN])
def test_a_decode_needs_no_other_kernels(source, hopper, monkeypatch):
    model = loaded(source).transformed(FastDecoder("vae"))
    with named(monkeypatch) as made:
        prepared(model, "vae")
        assert made
        model, run = on_cpu(monkeypatch, model, "vae"), DirectRun()
        with cost_meter.runtime(run), NoProducts():
            model.acquire("vae", run)
            for clip in ((480, 32, 9), (640, 32, 1)):
                _, latents = kernel_preparation._latents(model, clip)
                model.family.decode(model, real(latents))
    assert lacking(made) == set()


@needs_triton
def test_other_threads_may_change_the_state_of_the_process_while_kernels_are_built(hopper, monkeypatch):
    building, alone = threading.Event(), threading.Event()
    build = kernel_launch.build

    def waits(*arguments: Any) -> int:
        building.set()
        assert alone.wait(60), "the thread that builds keeps others from being alone"
        return build(*arguments)

    monkeypatch.setattr(kernel_launch, "build", waits)
    model = loaded(FLUX).transformed(Optimize("transformer", True, ("native",)))
    with named(monkeypatch) as made:
        thread = threading.Thread(target=model.prefetch, args=("transformer", on_cuda()))
        thread.start()
        assert building.wait(60)
        with exclusive():
            alone.set()
        thread.join()
        assert made
        count = len(made)
        prepared(model, "transformer")
        assert len(made) == count, "built once in a process"


@needs_triton
def test_a_kernel_that_cannot_be_compiled_leaves_the_others(hopper, monkeypatch):
    from triton.runtime.jit import JITFunction

    with named(monkeypatch) as made, monkeypatch.context() as patch:
        compile_ = JITFunction._do_compile

        def broken(self: Any, *arguments: Any) -> Any:
            if self.fn.__name__ == "_norm":
                raise RuntimeError("no compiler")
            return compile_(self, *arguments)

        patch.setattr(JITFunction, "_do_compile", broken)
        prepared(loaded(FLUX).transformed(Optimize("transformer", True, ("native",))), "transformer")
        assert {each.name for each in made} == {"_query_key"}


@needs_triton
def test_an_error_in_the_work_leaves_the_kernels_before_it(hopper, monkeypatch):
    model = loaded(FLUX)
    monkeypatch.setattr(type(model.family), "predict", lambda *arguments: 1 / 0)
    with named(monkeypatch) as made:
        prepared(model.transformed(Optimize("transformer", True, ("native",))), "transformer")
        assert [each.name for each in made] == ["_norm"], "that of the trial"


@needs_triton
def test_a_kernel_is_compiled_in_the_thread(hopper):
    with compiling(HOPPER) as made:
        prepared(loaded(FLUX).transformed(Optimize("transformer", True, ("native",))), "transformer")
    assert {each.name for each in made} == {"_norm", "_query_key"}
    assert all(each.parts["cubin"] and not each.launched for each in made)


@pytest.mark.parametrize("place", ["cpu", "plan", "own blocks", "end"])
def test_nothing_is_built(place, hopper, monkeypatch):
    monkeypatch.setattr(kernel_preparation, "has_triton", lambda: True)
    gathered: list[Any] = []
    monkeypatch.setattr(kernel_launch, "gathering", gathered.append)
    transform, run = Optimize("transformer", place != "own blocks", ("native",)), on_cuda()
    run.device, run.planning = "cpu" if place == "cpu" else "cuda", place == "plan"
    monkeypatch.setattr(run, "ending", lambda: place == "end")
    transform.prepare(loaded(WAN), "transformer", run)
    assert gathered == []


@needs_triton
def test_a_later_process_finds_the_kernels_built(hopper, monkeypatch, tmp_path):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a card")
    exact, other = (Optimize("transformer", True, (name,)) for name in ("native", "_native_cudnn"))
    counts: list[int] = []
    for model in (loaded(FLUX), loaded(FLUX), loaded(WAN), loaded(FLUX)):
        transform = exact if len(counts) < 3 else other
        kernel_preparation._prepared.clear()  # as in a process of its own
        with named(monkeypatch) as made:
            prepared(model.transformed(transform), "transformer")
            counts.append(len(made))
    assert counts[0] > 0
    assert counts[1] == 0
    assert counts[2] > 0, "other kernels"
    assert counts[3] > 0, "another transform may need others"
    assert len(list((tmp_path / "sgd-built").iterdir())) == 3


def test_a_thread_that_gathers_leaves_the_launches_of_others():
    ran: list[Any] = []
    kernel = SimpleNamespace(run=lambda *arguments, **named: ran.append((arguments, named)))
    thread = threading.Thread(target=kernel_launch.launch, args=(kernel, (2,), "x"), kwargs={"num_warps": 4})
    with kernel_launch.gathering(torch.device("cuda")) as found:
        assert kernel_launch.gathers(torch.empty(1, device="meta"))
        kernel_launch.launch(kernel, (3,), "y", num_warps=8)
        thread.start()
        thread.join()
    assert ran == [(("x",), {"grid": (2,), "warmup": False, "num_warps": 4})]
    assert [(each.grid, each.arguments, each.options) for each in found] == [((3,), ("y",), {"num_warps": 8})]
    assert not kernel_launch.gathers(torch.empty(1, device="meta"))
    assert kernel_launch.gathering_for() is None
