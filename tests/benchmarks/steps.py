"""Steps of `speed.py`: diffusers' path, diffusers with compiled blocks, `exact` and `fast`, in turns in one process.

A few blocks run in float32 first, for the error of each way. Outputs must be finite and near those of diffusers' path
(`BOUNDS`) before anything is timed.
"""

from __future__ import annotations

import copy
import gc
import time
import traceback
from collections.abc import Callable, Iterable
from typing import Any

import torch
from benchmarks.machine import calls, peak, require_near, wait
from benchmarks.speed_results import Measured, Way
from benchmarks.step_works import WORKS, Step, step_of
from helpers.direct import DirectRun
from sgd.nodes.cache.state import GateState
from sgd.nodes.models.attention.attention_target import Target
from sgd.nodes.models.memory.component_views import view
from sgd.nodes.models.model import Model
from sgd.nodes.models.transforms.attention_transform import Attention
from sgd.nodes.models.transforms.compile_transform import Compile
from sgd.nodes.models.transforms.optimize_transform import Optimize
from sgd.nodes.models.transforms.quantize_transform import Quantize
from sgd.nodes.models.transforms.sensitive_layers import LAYERS

BOUNDS = {"eager": 0.01, "diffusers": 0.05, "exact": 0.05, "fast": 0.2}
"""Largest relative difference of a way's output from that of `eager`; a way beyond it is not timed."""

LEAST_TURNS, MOST_TURNS = 3, 6


class StepRun(DirectRun):
    """A run that has made the latents and prompts of a step."""

    def __init__(self, step: Step, device: str) -> None:
        super().__init__()
        self.step, self.device = step, device

    def at_hand(self) -> Iterable[Any]:
        return self.step.start, self.step.branches


def ways(step: Step, device: str) -> dict[str, Model]:
    """The model as diffusers runs it, with compiled blocks, and optimised; each with its transforms."""
    model, config = step.model, step.model.config("transformer")
    name = type(model.component("transformer")).__name__
    target = Target("transformer", config, name, "bfloat16", device)
    backends = tuple(backend.library for backend in target.exact_backends())
    made = {"eager": model}
    if device == "cuda":
        attending = model.transformed(Attention("transformer", backends))
        made["diffusers"] = attending.transformed(Compile("transformer", "blocks", "default", False))
    made["exact"] = model.transformed(Optimize("transformer", True, backends))
    allowed = target.exact_backends() if LAYERS[name].attention else target.fast_backends()
    quantized = model.transformed(fp8(device))
    return made | {"fast": quantized.transformed(Optimize("transformer", True, tuple(b.library for b in allowed)))}


def fp8(device: str) -> Quantize:
    """The transform of `fast`. On a CPU it takes all layers, although none is faster there."""
    return Quantize("transformer", "fp8", paying=device == "cuda")


def cut(module: Any, lists: Any, count: int) -> Any:
    """A view with the first blocks of each list."""
    made = view(module)
    for name in lists:
        setattr(made, name, torch.nn.ModuleList(list(getattr(made, name))[:count]))
    return made


class Fixed:
    """A model whose transformer is a given module with inputs of a dtype."""

    def __init__(self, model: Model, module: Any, dtype: torch.dtype) -> None:
        self._model, self._module, self._dtype = model, module, dtype

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def component(self, name: str) -> Any:
        return self._module if name == "transformer" else self._model.component(name)

    def dtype(self, name: str) -> torch.dtype:
        return self._dtype


def errors(step: Step, run: DirectRun, count: int = 2) -> dict[str, float]:
    """Errors of the first blocks against float32: diffusers' path and the rebuilt blocks, in the model's dtype."""
    module, lists = step.model.component("transformer"), step.model.family.blocks.lists
    parts = {name: cut(module, lists, count) for name in ("eager", "exact", "fast")}
    fp8(run.device).apply(parts["fast"], run)
    for name in ("exact", "fast"):
        Optimize("transformer", True, ()).apply(parts[name], run)
    assert run.details["rebuilt_blocks"] > 0
    whole = copy.deepcopy(cut(module, lists, count), {}).float()
    exact = step(Fixed(step.model, whole, torch.float32))  # type: ignore[arg-type]
    del whole
    own = step.model.dtype("transformer")
    return {
        name: require_near(step(Fixed(step.model, each, own)), exact, 1.0)  # type: ignore[arg-type]
        for name, each in parts.items()
    }


def measure(
    work: str, found: Measured, *, device: str, small: bool, seconds: float, missed: Callable[[Measured], list[str]]
) -> None:
    """Errors, first calls, peaks and times of a step.

    Args:
        work: Name in `WORKS`.
        found: Receives the results.
        device: `cuda` or `cpu`.
        small: Whether to take a tiny model.
        seconds: How long the turns may take; each way has `LEAST_TURNS` in any case.
        missed: The ways of which the kernels are wanted.
    """
    from benchmarks.kernel_times import kernels_of

    with step_of(WORKS[work], device, small) as step:
        found.errors |= errors(step, StepRun(step, device))
        gc.collect()
        models, reference = ways(step, device), step(step.model)
        states = {way: GateState() for way in models}
        ready = {}
        for way, model in models.items():
            found.ways[way] = Way()
            try:
                _prepare(step, model, states[way], found.ways[way], reference, BOUNDS[way], device)
                ready[way] = model
            except Exception as problem:
                traceback.print_exc(limit=-4)
                found.ways[way].failed = f"{type(problem).__name__}: {str(problem)[:300]}"
        counts, began = dict.fromkeys(ready, 1), time.time()
        for turn in range(1 if small else MOST_TURNS):
            if turn >= LEAST_TURNS and time.time() - began > seconds:
                break
            for way, model in ready.items():
                if way == "eager" and turn:
                    continue  # the reference of the values, and no target
                took, during = calls(lambda m=model, s=states[way]: step(m, s), device, counts[way])  # type: ignore[misc]
                found.ways[way].seconds += took
                found.ways[way].state = during
                counts[way] = max(1, min(8, int(1.0 / took[0])))
                print(f"{work}, turn {turn}: {way} {min(took):.4f} s, {during}", flush=True)
        for way in missed(found):
            if device == "cuda" and way in ready:
                found.ways[way].kernels = kernels_of(lambda m=ready[way], s=states[way]: step(m, s))  # type: ignore[misc]
        for way, model in ready.items():
            states[way].end()
            model.release("transformer")


def _prepare(
    step: Step, model: Model, state: GateState, way: Way, reference: torch.Tensor, bound: float, device: str
) -> None:
    """The first call of a way, its error and its peak.

    Raises:
        AssertionError: If its output is not near the reference.
    """
    run = StepRun(step, device)
    model.acquire("transformer", run)
    began = time.time()
    step(model, state)  # shows the shapes to the choice of attention
    made = step(model, state)
    wait(device)
    way.first = time.time() - began
    way.error = require_near(made, reference, bound)
    way.peak = peak(lambda: step(model, state), model.component("transformer"), device)
    way.details = {key: str(value) for key, value in run.details.items()}
    print(f"first {way.first:.1f} s, error {way.error:.2e}, {way.details}", flush=True)
