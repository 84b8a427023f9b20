"""Forwards of one branch with tables of all steps, without a loop: on a CPU, and on a GPU if there is one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from helpers.direct import DirectRun
from helpers.transformer_cases import CASES, called, on_device, relative, shaken, to, wider
from sgd.nodes.models.memory.component_views import view
from sgd.nodes.models.rebuilt import recorded_forward
from sgd.nodes.models.rebuilt.forward_launch import launched
from sgd.nodes.models.rebuilt.loop_values import BranchCall, LoopSteps, Values, telling
from sgd.nodes.models.rebuilt.rebuilding import rebuild
from sgd.nodes.models.rebuilt.timed_modules import TimedForward

ON_GPU = torch.cuda.is_available()
DEVICE = "cuda" if ON_GPU else "cpu"
WITH_TABLES = [case for case in CASES if not case.startswith("wan")]


class Forwards:
    """Forwards of one branch at the steps of a schedule, on the GPU if there is one.

    Args:
        case: A key of `CASES`.
        dtype: The dtype of weights and inputs.
        rows: Rows of the batch.
    """

    TIMES = torch.tensor([0.9, 0.8, 0.62, 0.5, 0.43, 0.3, 0.21, 0.1], device=DEVICE)

    def __init__(self, case: str, dtype: torch.dtype, rows: int) -> None:
        self.rows, self.times = rows, self.TIMES * (1000 if case == "hunyuan-video" else 1)
        self.inputs = {name: on_device(to(value, dtype), DEVICE) for name, value in CASES[case][1](rows).items()}
        self.own = shaken(wider(case)).to(DEVICE, dtype)
        self.module = view(self.own)
        assert rebuild(self.module, join=ON_GPU)
        self.time = "t" if "t" in self.inputs else "timestep"

    def __call__(self, *, tables: bool, run: DirectRun | None = None) -> list[torch.Tensor]:
        prompt, alone, made, count = Values(), Values(), [], len(self.times)
        for index in range(count):
            steps = LoopSteps(index, count, lambda: self.times, alone, pytest.fail) if tables else None
            call = self.module
            if run is not None:
                call = launched(self.module, self.module, prompt, run, lambda left=count - index: left)
            with telling(self.module, BranchCall(self.rows, prompt=prompt, steps=steps)):
                made.append(called(call, self.at(index)).clone())
        return made

    def at(self, index: int) -> dict[str, Any]:
        """The inputs of a step."""
        return self.inputs | {self.time: self.times[index].expand(self.rows)}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize("case", WITH_TABLES)
def test_forwards_with_tables_and_without(case, rows, dtype):
    forwards = Forwards(case, dtype, rows)
    bound = 1e-5 if dtype == torch.float32 else 1e-2
    for with_tables, without in zip(forwards(tables=True), forwards(tables=False), strict=True):
        assert relative(with_tables, without) < bound


@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize("case", WITH_TABLES)
def test_timesteps_are_rounded_as_the_forward_rounds_them(case, rows, monkeypatch):
    """In bfloat16, in which most timesteps are not exact."""
    forwards, wanted, found = Forwards(case, torch.bfloat16, rows), [], []
    original, place = TimedForward.__call__, {"context_embedder": 1}

    def compared(self: TimedForward, *args: Any, **kwargs: Any) -> Any:
        inner, at = self.inner, place.get(self.timed.name, 0)
        wanted.append((self.timed.name, args[at][:1].clone()))

        def seen(*args: Any, **kwargs: Any) -> Any:
            found.append((self.timed.name, args[at][:1].clone()))
            return inner(*args, **kwargs)

        self.inner = seen
        try:
            return original(self, *args, **kwargs)
        finally:
            self.inner = inner

    monkeypatch.setattr(TimedForward, "__call__", compared)
    forwards(tables=True)
    for name in {name for name, _ in wanted}:
        ours, theirs = ([t for other, t in each if other == name] for each in (found, wanted))
        assert len(ours) == len(theirs) == len(forwards.times)
        assert all(a.dtype == b.dtype and torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.skipif(not ON_GPU, reason="there is no GPU")
@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize("case", WITH_TABLES)
def test_on_a_gpu_a_graph_takes_the_part_of_each_step(case, rows, monkeypatch):
    monkeypatch.setattr(recorded_forward, "HOST_SHARE", 0.0)
    run = DirectRun()
    run.device = "cuda"
    forwards = Forwards(case, torch.bfloat16, rows)
    plain, recorded = forwards(tables=True), forwards(tables=True, run=run)
    # diffusers copies a number to the GPU for the mask of Qwen-Image's prompts, which no graph can hold.
    said = "kernel by kernel" if (case, rows) == ("qwen-image", 2) else "one CUDA graph"
    assert run.details["launch"].startswith(said), run.warnings
    for a, b in zip(recorded, plain, strict=True):
        assert relative(a, b) < 1e-2


@pytest.mark.skipif(not ON_GPU, reason="there is no GPU")
@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize("case", WITH_TABLES)
def test_errors_on_a_gpu_are_no_larger_than_those_of_diffusers(case, rows):
    exact, half = Forwards(case, torch.float32, rows), Forwards(case, torch.bfloat16, rows)
    with_tables = half(tables=True)
    for index, made in enumerate(with_tables):
        wanted = called(exact.own, exact.at(index))
        assert relative(made, wanted) <= 1.25 * relative(called(half.own, half.at(index)), wanted)
