"""The forward as one CUDA graph: on a GPU, or with a double of graphs on a CPU. Equal to kernels one by one."""

from __future__ import annotations

import gc
import math
import weakref
from typing import Any

import pytest
import torch
from helpers.direct import DirectRun
from helpers.gate_pipelines import FAMILIES
from helpers.graph_double import GraphDouble
from helpers.ours import Pair, states
from helpers.transformer_cases import CASES, called, on_device, relative, shaken, to, wider
from sgd.graph.contract.node import Here
from sgd.nodes.cache.loop_turn import Turn
from sgd.nodes.cache.methods.scm import scm
from sgd.nodes.models.memory.component_views import view
from sgd.nodes.models.memory.offloading import Offload
from sgd.nodes.models.rebuilt import recorded_forward
from sgd.nodes.models.rebuilt.cuda_graph import CaptureFailed, CudaGraphs
from sgd.nodes.models.rebuilt.forward_launch import launched
from sgd.nodes.models.rebuilt.loop_values import BranchCall, Values, telling
from sgd.nodes.models.rebuilt.rebuilding import rebuild

ON_GPU = torch.cuda.is_available()
DEVICE = "cuda" if ON_GPU else "cpu"
DTYPES = [torch.float32, *([torch.bfloat16] if ON_GPU else [])]
BOUNDS = {torch.float32: 1e-5 if ON_GPU else 0.0, torch.bfloat16: 1e-2}
CHANGING = {"hidden_states": 1.0, "x": 1.0, "timestep": 0.9, "t": 0.9, "guidance": 1.1}
"""Inputs that differ from step to step, and the factor from one step to the next."""
SMALL = 1 << 14
"""Bytes."""
KNOWN = [case for case in CASES if case != "wan with any timesteps"]


@pytest.fixture
def log(monkeypatch):
    """What graphs do: those of the GPU, or the double. Each forward is recorded, whatever is faster."""
    found: list[str] = []
    if ON_GPU:

        class Logged(CudaGraphs):
            def capture(self, call: Any, dtype: torch.dtype) -> Any:
                found.append("capture")
                return super().capture(call, dtype)

        monkeypatch.setattr(recorded_forward, "CudaGraphs", Logged)
    else:
        double = GraphDouble.fresh()
        monkeypatch.setattr(recorded_forward, "CudaGraphs", double)
        found = double.log
    monkeypatch.setattr(recorded_forward, "HOST_SHARE", 0.0)
    return found


@pytest.fixture
def double(monkeypatch):
    """The double, also on a GPU."""
    found = GraphDouble.fresh()
    monkeypatch.setattr(recorded_forward, "CudaGraphs", found)
    return found


def cuda_run() -> DirectRun:
    run = DirectRun()
    run.device = "cuda"
    return run


class Loop:
    """Forwards of one branch, one after the other, of a transformer with its blocks rebuilt."""

    def __init__(self, module: Any, rows: int, run: DirectRun | None = None, steps: int = 20) -> None:
        self.module, self.rows, self.run, self.steps = module, rows, run, steps
        self.values = Values()

    def __call__(self, inputs: dict[str, Any], shared: Values | None = None) -> torch.Tensor:
        self.steps -= 1
        left = self.steps + 1
        transformer = self.module
        if self.run is not None:
            transformer = launched(self.module, self.module, self.values, self.run, lambda: left)
        with telling(self.module, BranchCall(self.rows, prompt=self.values, step=shared)):
            return called(transformer, inputs)


def changed(inputs: dict[str, Any], number: int) -> dict[str, Any]:
    """The inputs of another step; those of the prompts are the same objects."""

    def one(name: str, value: Any) -> Any:
        if isinstance(value, list):
            return [one(name, each) for each in value]
        noise = torch.randn(value.shape, generator=torch.Generator().manual_seed(number)).to(value)
        return CHANGING[name] ** number * value + (noise if CHANGING[name] == 1.0 else 0)

    return inputs | {name: one(name, value) for name, value in inputs.items() if name in CHANGING}


def built(case: str, dtype: torch.dtype = torch.float32) -> Any:
    module = shaken(wider(case))
    keep = set(getattr(module, "_keep_in_fp32_modules", None) or ())
    for name, parameter in module.named_parameters():
        if not keep & set(name.split(".")):
            parameter.data = parameter.data.to(dtype)
    made = view(module.to(DEVICE))
    assert rebuild(made, join=ON_GPU)
    return made


def given_to(case: str, rows: int, dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    return {name: on_device(to(value, dtype), DEVICE) for name, value in CASES[case][1](rows).items()}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize("case", KNOWN)
def test_equals_kernels_launched_one_by_one(case, rows, dtype, log):
    """Six steps of a graph, with changing latents, timesteps and guidance."""
    module, inputs, run = built(case, dtype), given_to(case, rows, dtype), cuda_run()
    plain, recorded = Loop(module, rows), Loop(module, rows, run)
    wanted, found = [], []
    for number in range(8):
        step = changed(inputs, number)
        wanted.append(plain(step).clone())
        found.append(recorded(step))
    assert log.count("capture") == 1, run.warnings
    if ON_GPU and case == "qwen-image" and rows == 2:  # diffusers copies a number to the GPU for a mask
        assert run.details["launch"].startswith("kernel by kernel: the capture of a CUDA graph failed")
    else:
        assert run.details["launch"].startswith("one CUDA graph: the host took")
        assert set(run.details["launch_seconds"]) == {"one by one", "one graph"}
        assert not run.warnings
    for number, (a, b) in enumerate(zip(found, wanted, strict=True)):
        assert relative(a, b) <= BOUNDS[dtype], f"step {number}: a result outlasts later steps"
        assert number == 0 or relative(wanted[number], wanted[number - 1]) > 1e-3, "the steps differ"


def test_a_graph_reads_nothing_that_branches_share_in_a_step(log):
    """Wan's first block up to cross attention: made anew at each step, at another address."""
    module, inputs = built("wan"), given_to("wan", 1)
    texts = [inputs["encoder_hidden_states"], 2 * inputs["encoder_hidden_states"]]
    plain, recorded = ([Loop(module, 1, run), Loop(module, 1, run)] for run in (None, cuda_run()))
    held = []  # so that no address is used again
    for number in range(7):
        made = []
        for branches in (plain, recorded):
            held.append(Values(uses=2))
            for branch, text in zip(branches, texts, strict=True):
                step = changed(inputs, number) | {"encoder_hidden_states": text}
                made.append(branch(step, held[-1] if branches is plain or number < 5 else None))
        assert relative(made[2], made[0]) <= BOUNDS[torch.float32]
        assert relative(made[3], made[1]) <= max(BOUNDS[torch.float32], 1e-6)
    assert log.count("capture") == 2


@pytest.mark.skipif(not ON_GPU, reason="there is no GPU")
def test_a_capture_that_fails_leaves_the_gpu_as_it_was():
    """The call waits for the device, which no graph can hold. The allocator, the generator and the stream are right."""
    graphs, stream = CudaGraphs(), torch.cuda.current_stream()
    x = torch.randn(1 << 20, device="cuda")
    graphs.capture(lambda: x * 2, torch.float32)
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated(), torch.cuda.memory_reserved()
    for _ in range(2):
        with pytest.raises(CaptureFailed):
            graphs.capture(lambda: x * float((x * 2).sum().item()), torch.float32)
        assert torch.cuda.current_stream() == stream
        allocated, reserved = torch.cuda.memory_allocated(), torch.cuda.memory_reserved()
        assert reserved == before[1]
        assert allocated - before[0] < SMALL, "two failures leave no more than small values of torch"
        assert torch.isfinite(torch.randn(10, device="cuda")).all()
    made = graphs.capture(lambda: x * 3, torch.float32)
    x.fill_(2)
    made.replay()
    assert torch.equal(made.made, torch.full_like(x, 6))


@pytest.mark.skipif(not ON_GPU, reason="there is no GPU")
def test_no_memory_is_left_when_the_values_are_dropped(log):
    module, inputs, held = built("flux"), given_to("flux", 1), []
    for number in range(2):
        loop = Loop(module, 1, cuda_run())
        for step in range(5):
            loop(changed(inputs, step))
        assert log.count("capture") == number + 1
        del loop
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        held.append((torch.cuda.memory_allocated(), torch.cuda.memory_reserved()))
    (allocated, reserved), (allocated_again, reserved_again) = held
    assert allocated_again == allocated
    assert reserved_again <= reserved


def test_other_shapes_are_computed_as_ever(log):
    module, run = built("flux"), cuda_run()
    loop, inputs = Loop(module, 1, run), given_to("flux", 1)
    for number in range(4):
        loop(changed(inputs, number))
    assert log.count("capture") == 1
    short = inputs | {"hidden_states": inputs["hidden_states"][:, :6], "img_ids": inputs["img_ids"][:6]}
    replays = log.count("replay")
    fresh = Loop(module, 1)
    wanted = fresh(short)
    loop.values._made.pop("positions")  # a loop has one size; here the table of the other one would be found
    assert relative(loop(short), wanted) < 1e-6
    assert (log.count("capture"), log.count("replay")) == (1, replays)


def told_nothing() -> Any:
    """A view whose caller told nothing but the number of rows."""
    made = torch.nn.Module()
    made.once = type("Once", (), {"call": BranchCall(1)})()
    return made


def test_arguments_that_are_no_tensors_are_part_of_the_key(double, monkeypatch):
    monkeypatch.setattr(recorded_forward, "HOST_SHARE", 0.0)
    seen = []

    def transformer(x: Any, *, factor: Any) -> Any:
        seen.append(factor)
        return (x * (factor or 1),)

    owner, values, run, x = told_nothing(), Values(), cuda_run(), torch.ones(2)
    for factor in (2, 2, 2, 2, 3, 2, None):
        made = launched(transformer, owner, values, run, lambda: 9)(x, factor=factor)[0]
        assert torch.equal(made, x * (factor or 1))
    assert double.log.count("replay") == 3
    assert seen.count(3) == seen.count(None) == 1


@pytest.mark.parametrize("obstacle", ["ranges", "profiler", "operations", "functions"])
def test_not_while_somebody_looks_at_operations(obstacle, double, monkeypatch):
    """Not captured then, and not replayed; afterwards it is."""
    from torch.autograd.profiler import profile
    from torch.overrides import TorchFunctionMode
    from torch.utils._python_dispatch import TorchDispatchMode

    class Operations(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            return func(*args, **(kwargs or {}))

    class Functions(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            return func(*args, **(kwargs or {}))

    monkeypatch.setattr(recorded_forward, "HOST_SHARE", 0.0)
    module, inputs, run = built("flux"), given_to("flux", 1), cuda_run()
    loop = Loop(module, 1, run)

    def watched() -> torch.Tensor:
        if obstacle == "ranges":
            run.ranges = True
            try:
                return loop(inputs)
            finally:
                run.ranges = False
        with {"profiler": profile, "operations": Operations, "functions": Functions}[obstacle]():
            return loop(inputs)

    wanted = loop(inputs)
    watched()  # in place of the measured one
    watched()  # in place of the third
    assert double.log == []
    loop(inputs)  # measured
    watched()
    assert "capture" not in double.log
    loop(inputs)
    loop(inputs)
    replays = double.log.count("replay")
    assert (double.log.count("capture"), replays) == (1, 2)
    assert torch.equal(watched(), wanted)
    assert double.log.count("replay") == replays


def test_who_looks_at_every_step_is_not_asked_for_ever(double, monkeypatch):
    asked, original = [], recorded_forward.largest

    def largest(*arguments: Any) -> list[int]:
        asked.append(1)
        return original(*arguments)

    monkeypatch.setattr(recorded_forward, "largest", largest)
    run = cuda_run()
    run.ranges = True
    loop, inputs = Loop(built("flux"), 1, run), given_to("flux", 1)
    for _ in range(9):
        loop(inputs)
    run.ranges = False
    loop(inputs)
    assert len(asked) == recorded_forward.TRIES
    assert double.log == []
    assert not run.details


def test_not_where_the_gpu_is_the_slower_one(double):
    double.seconds = 1000.0
    run = cuda_run()
    loop, inputs = Loop(built("flux"), 1, run), given_to("flux", 1)
    for number in range(6):
        loop(changed(inputs, number))
    assert double.log == ["settle", "wait"], "measured once, and left alone"
    assert not run.details


@pytest.mark.parametrize(("steps", "captures"), [(6, 0), (7, 1)])
def test_not_for_few_steps(steps, captures, log):
    """Five steps must follow the two before the capture."""
    loop, inputs = Loop(built("flux"), 1, cuda_run(), steps), given_to("flux", 1)
    for number in range(steps):
        loop(changed(inputs, number))
    assert log.count("capture") == captures


def test_not_without_memory(double, monkeypatch):
    monkeypatch.setattr(recorded_forward, "HOST_SHARE", 0.0)
    run, double.free_bytes = cuda_run(), 1499
    loop, inputs = Loop(built("flux"), 1, run), given_to("flux", 1)
    for number in range(5):
        loop(changed(inputs, number))
    assert "capture" not in double.log
    assert run.details == {"launch": "kernel by kernel: a CUDA graph needs up to 1.46 KiB of free memory"}
    assert not run.warnings


def test_not_with_an_argument_on_the_host(double, monkeypatch):
    monkeypatch.setattr(recorded_forward, "HOST_SHARE", 0.0)
    values, run = Values(), cuda_run()
    for _ in range(5):
        launched(lambda x, y: (x,), told_nothing(), values, run, lambda: 9)(torch.ones(1), torch.ones(1, device="meta"))
    assert double.log == []


def test_the_host_is_at_most_two_forwards_ahead(double, monkeypatch):
    monkeypatch.setattr(recorded_forward, "HOST_SHARE", 0.0)
    loop, inputs = Loop(built("flux"), 1, cuda_run()), given_to("flux", 1)
    for number in range(7):
        loop(changed(inputs, number))
    assert double.log == ["settle", "wait", "capture", "replay", "replay", *["wait", "replay"] * 3]


@pytest.mark.parametrize("family", ["flux", "wan"])
def test_a_capture_that_fails(family, double, monkeypatch, tmp_path):
    """The run goes on, with one warning for both branches."""
    monkeypatch.setattr(recorded_forward, "HOST_SHARE", 0.0)
    double.failure = "operation not permitted when stream is capturing"
    pair = Pair(family, tmp_path, layers=2)
    value, prepared, run = pair.rebuilt(), pair.prepare(steps=8), cuda_run()
    found = states(value, prepared, run=run)
    for a, b in zip(found, states(value, prepared), strict=True):
        assert torch.equal(a, b)
    assert double.log.count("capture") == 1
    assert "replay" not in double.log
    reason = "operation not permitted when stream is capturing"
    said = f"the transformer cannot be launched as one CUDA graph ({reason}); the run goes on without it"
    assert run.warnings == [said]
    assert run.details["launch"] == f"kernel by kernel: the capture of a CUDA graph failed: {reason}"
    double.failure = ""
    again = cuda_run()
    states(value, prepared, run=again)
    assert double.log.count("capture") == 3, "another run tries again"
    value.release("transformer")


def test_no_value_of_the_prompt_is_made_in_a_capture():
    values = Values()
    values.of("known", lambda: 1)
    values.complete = True
    assert values.of("known", lambda: 2) == 1
    with pytest.raises(RuntimeError, match="not there yet"):
        values.of("new", lambda: 2)
    assert len(values) == 1


@pytest.fixture(scope="module", params=FAMILIES)
def pair(request, tmp_path_factory):
    return Pair(request.param, tmp_path_factory.mktemp("recorded") / request.param, layers=2)


@pytest.fixture
def forwards(monkeypatch):
    """Weak references to all recorded forwards."""
    found: list[weakref.ref[Any]] = []
    original = recorded_forward.RecordedForward.__init__

    def noted(self: Any, *args: Any) -> None:
        found.append(weakref.ref(self))
        original(self, *args)

    monkeypatch.setattr(recorded_forward.RecordedForward, "__init__", noted)
    return found


def test_loops_make_equal_latents_and_keep_nothing(pair, double, forwards, monkeypatch):
    """Two loops on one view, with other prompts."""
    monkeypatch.setattr(recorded_forward, "HOST_SHARE", 0.0)
    value = pair.rebuilt()
    for prompts in (("a red square",), ("two blue squares meet",)):
        prepared, run = pair.prepare(steps=8, prompts=prompts), cuda_run()
        found, wanted = states(value, prepared, run=run), states(value, prepared)
        for a, b in zip(found, wanted, strict=True):
            assert torch.equal(a, b)
        assert run.details["launch"].startswith("one CUDA graph"), double.log
        assert not run.warnings
    gc.collect()  # the double holds the call that it captured, and so the forward itself
    assert [alive() for alive in forwards] == [None] * len(forwards)
    assert len(forwards) == double.log.count("capture")
    assert double.log.count("replay") == 6 * len(forwards)
    value.release("transformer")


def test_a_gate_or_offloading_excludes_it(pair, double, monkeypatch):
    monkeypatch.setattr(recorded_forward, "HOST_SHARE", 0.0)
    prepared = pair.prepare(steps=8)
    value = pair.rebuilt()
    gate = scm(Here("gate"), mask="11010101")
    assert len(states(value, prepared, gate=gate, run=cuda_run())) == 8
    value.release("transformer")
    moved = pair.rebuilt(Offload("transformer", "blocks"))
    states(moved, prepared, run=cuda_run())
    moved.release("transformer")
    assert double.log == []


def test_plans_and_runs_on_a_cpu_exclude_it():
    transformer, plan = object(), cuda_run()
    plan.planning = True
    for values, run in ((Values(), DirectRun()), (Values(), plan), (None, cuda_run())):
        assert launched(transformer, transformer, values, run, lambda: 9) is transformer


def test_steps_that_are_left(pair):
    plan, start, branches = pair.prepare(steps=8, stop=0.5)
    model = pair.model
    at = [Turn(model, None, step, branches, start.size, False, DirectRun()) for step in plan]
    assert [turn.steps_left(("positive",)) for turn in at] == [8, 7, 6, 5, 4, 3, 2, 1]
    if branches.guided:
        assert [turn.steps_left(("positive", "negative")) for turn in at] == [4, 3, 2, 1, 0, 0, 0, 0]


def test_an_infinite_share_switches_it_off(double, monkeypatch):
    monkeypatch.setattr(recorded_forward, "HOST_SHARE", math.inf)
    loop, inputs = Loop(built("flux"), 1, cuda_run()), given_to("flux", 1)
    for number in range(5):
        loop(changed(inputs, number))
    assert "capture" not in double.log
