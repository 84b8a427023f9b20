"""The way from a turn of the loop to a block is short: its functions, their lengths, and the modules of a threshold."""

import inspect
import sys
import threading
from pathlib import Path

import pytest
import sgd
from sgd.graph.contract.workflow_folders import bundled_workflows
from sgd.graph.runtime.execute import Executor
from sgd.nodes import denoiser
from sgd.nodes.cache.engine.engine import BlockCall, Engine, Gated, Stack, exchanged
from sgd.nodes.cache.gate import Gate
from sgd.nodes.families.wan import Wan

PATH = (
    Executor.turn,
    Executor.steps,
    Executor.call,
    denoiser.predict,
    Engine.evaluate,
    Wan.predict,
    Gated.__call__,
    exchanged,
    Stack.forward,
    Stack.between,
    BlockCall.through,
)
"""The functions on the stack when a middle block runs, outermost first; `predict` calls others through its own two."""

NODE_FUNCTIONS = (denoiser.predict,)


def workflow(folder: Path, gate: str) -> Path:
    """The quickstart with another gate, in a folder of its own."""
    text = (bundled_workflows() / "quickstart.yaml").read_text()
    old = "{uses: cache.taylorseer, with: {threshold: $cache, max_consecutive: 3}}"
    assert old in text
    for name in ("models", "parts"):
        text = text.replace(f"./{name}/", f"{bundled_workflows()}/{name}/")
    file = folder / "workflow.yaml"
    file.write_text(text.replace(old, gate).replace("frames: 17", "frames: 5"))
    return file


def test_it_is_four_files_and_less_than_200_lines():
    files = {inspect.getsourcefile(function) for function in PATH}
    assert len(files) == 4
    lines = [line for function in PATH for line in body(function)]
    assert len(lines) < 200


def test_no_function_on_it_takes_more_than_five_parameters():
    for function in PATH:
        if function not in NODE_FUNCTIONS:
            assert len(set(inspect.signature(function).parameters) - {"self"}) <= 5, function


@pytest.fixture
def plan(tmp_path):
    file = workflow(tmp_path, "{uses: cache.dbcache, with: {threshold: 0.1234567, warmup_steps: 1}}")
    return sgd.compile(file, inputs={"steps": 3})


def test_these_are_the_functions_on_the_stack_when_a_block_runs(plan, tmp_path, monkeypatch):
    seen = []
    original = BlockCall.through

    def through(self, blocks, streams):
        frame, found = inspect.currentframe(), []
        while frame is not None:
            if frame.f_globals.get("__name__", "").startswith("sgd.") and frame.f_code is not through.__code__:
                found.append(frame.f_code)
            frame = frame.f_back
        seen.append(found[::-1])
        return original(self, blocks, streams)

    monkeypatch.setattr(BlockCall, "through", through)
    assert sgd.run(plan, out=tmp_path / "run", device="cpu").status == "done"
    codes = [inspect.unwrap(function).__code__ for function in PATH if function is not original]
    first, middle = seen[0], seen[1]  # the first blocks, which always run, and those between
    assert len(middle) == len(first) + 1
    stack = middle[middle.index(codes[0]) :]
    assert [code for code in stack if code in codes] == codes
    assert all(code.co_qualname.startswith("predict.<locals>.") for code in stack if code not in codes)


def test_a_threshold_passes_through_eight_modules(plan, tmp_path):
    """From the argument of the gate's node to the decision.

    A module counts if one of its functions receives or returns the number, or the gate that holds it. The gate's own
    methods, observers that only write it down, and checks that look at every value, do not. Until the node runs, the
    number is a literal of the plan like any other.
    """
    found: dict[str, None] = {}

    def holds(value):
        return (
            value == 0.1234567 if isinstance(value, float) else isinstance(value, Gate) and value.threshold == 0.1234567
        )

    def profile(frame, event, result):
        module = frame.f_globals.get("__name__", "")
        if module.startswith("sgd.") and event in ("call", "return"):
            code = frame.f_code
            names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
            values = [frame.f_locals.get(name) for name in names] if event == "call" else [result]
            if any(map(holds, values)):
                found.setdefault(module.removeprefix("sgd."), None)

    def run():
        sys.setprofile(profile)
        try:
            return sgd.run(plan, out=tmp_path / "run", device="cpu")
        finally:
            sys.setprofile(None)

    threading.setprofile(profile)
    try:
        assert run().status == "done"
    finally:
        threading.setprofile(None)
    writing = ("nodes.cache.gate", "graph.runtime.observers", "graph.runtime.record")
    looking = (
        "graph.runtime.declared_results",
        "nodes.batched_guidance",
        "nodes.support.lasting_names",
        "nodes.support.unchanged_inputs",
        "nodes.support.value_tensors",
        "nodes.support.work_meter",
    )
    through = [module for module in found if not module.startswith((*writing, *looking))]
    assert through == [
        "graph.runtime.arguments",
        "nodes.cache.methods.dbcache",
        "nodes.cache.methods.gate_node",
        "nodes.denoiser",
        "nodes.cache.state",
        "nodes.cache.resolved_gate",
        "nodes.cache.engine.engine",
        "nodes.cache.engine.decide",
    ]


def body(function) -> list[str]:
    """Lines of code of a function: without its docstring, and without lines that are empty or a comment."""
    source = inspect.getsource(function)
    doc = inspect.unwrap(function).__doc__
    lines = source.splitlines()
    if doc:
        start = next(number for number, line in enumerate(lines) if '"""' in line)
        end = (
            start
            if lines[start].count('"""') == 2
            else next(n for n in range(start + 1, len(lines)) if '"""' in lines[n])
        )
        del lines[start : end + 1]
    return [line for line in lines if line.strip() and not line.strip().startswith("#")]
