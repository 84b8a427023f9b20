"""Ranges of branches and blocks: they surround the blocks of a transformer, and leave nothing behind."""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from helpers.direct import BOTH, DirectRun, model_of
from sgd.graph.contract.node import Here
from sgd.nodes import cfg, denoiser, latents, schedule, text
from sgd.nodes.cache.methods.dbcache import dbcache
from sgd.nodes.cache.state import GateState
from sgd.nodes.models.nodes.model_compile import compile
from sgd.nodes.models.nodes.model_offload import offload
from sgd.nodes.support.block_ranges import WHOLE, Ranged, block_ranges


class Ranging(DirectRun):
    """A run that writes ranges down, indented by their depth."""

    ranges = True

    def __init__(self) -> None:
        super().__init__()
        self.log: list[str] = []
        self.depth = 0

    @contextmanager
    def range(self, kind: str, name: str) -> Iterator[None]:
        self.log.append("  " * self.depth + f"{kind} {name}")
        self.depth += 1
        try:
            yield
        finally:
            self.depth -= 1


def predict(model: Any, run: DirectRun, **options: Any) -> Any:
    batched = options.pop("batched", False)
    with torch.no_grad():
        conditioning = text.encode(DirectRun(), BOTH, model, ["a cat"], negative=["dark"], max_length=16)
        noise = latents.noise(model, width=32, height=32, frames=9, seed=1)
        step = schedule.make(model, steps=4).steps[1]
        branches = cfg.split(conditioning, scale=5.0, batched=batched)
        state = GateState()
        try:
            return denoiser.predict(model, noise, step, branches, state, run, **options)
        finally:
            state.end()


def left_over(model: Any) -> list[str]:
    """Names of modules with an attribute that ranges set."""
    modules = model.component("transformer").named_modules()
    return [name for name, module in modules if isinstance(vars(module).get("_compiled_call_impl"), Ranged)]


BLOCKS = ["  block blocks.0", "  block blocks.1"]
BOTH_BRANCHES = ["branch positive", *BLOCKS, "branch negative", *BLOCKS]


def test_each_branch_and_block_has_a_range(wan_model: Any) -> None:
    run = Ranging()
    made = predict(wan_model, run)
    assert run.log == BOTH_BRANCHES
    assert left_over(wan_model) == []
    plain = predict(wan_model, DirectRun())
    assert all(torch.equal(made.branches[name], plain.branches[name]) for name in plain.branches)


def test_batched_branches_are_one_range(wan_model: Any) -> None:
    run = Ranging()
    predict(wan_model, run, batched=True)
    assert run.log == ["branch positive+negative", *BLOCKS]


def test_without_a_listener_no_block_is_touched(wan_model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: Any) -> None:
        raise AssertionError

    monkeypatch.setattr(Ranged, "__init__", never)
    predict(wan_model, DirectRun())


def test_blocks_behind_a_gate_have_ranges(wan_model: Any) -> None:
    run = Ranging()
    describe: Any = dbcache
    predict(wan_model, run, gate=describe(here=Here("gate"), front_blocks=1))
    assert [line for line in run.log if "block" in line] == BLOCKS * 2
    assert left_over(wan_model) == []


@pytest.mark.parametrize("region", ["blocks", "whole"])
def test_compiled_blocks_are_not_compiled_again(wan_folder: Any, monkeypatch: pytest.MonkeyPatch, region: str) -> None:
    graphs: list[Any] = []

    def backend(module: Any, inputs: Any) -> Any:
        graphs.append(module)
        return module.forward

    real = torch.compile
    monkeypatch.setattr(torch, "compile", lambda function, *_, mode=None, **o: real(function, backend=backend, **o))
    torch._dynamo.reset()
    try:
        model = compile(DirectRun(), model_of(wan_folder, "scheduler", "text_encoder", "tokenizer"), region=region)
        model.acquire("transformer", DirectRun())
        plain = predict(model, DirectRun())
        before = len(graphs)
        assert before
        run = Ranging()
        made = predict(model, run)
        assert torch.equal(made.branches["positive"], plain.branches["positive"])
        predict(model, DirectRun())
        assert len(graphs) == before
        assert left_over(model) == []
        if region == "blocks":
            assert run.log == BOTH_BRANCHES
        else:
            assert run.log == ["branch positive", "branch negative"]
            assert run.warnings == [WHOLE] * 2
    finally:
        torch._dynamo.reset()


def test_offloaded_blocks_have_ranges(wan_folder: Any) -> None:
    run = Ranging()
    model = offload(run, model_of(wan_folder, "scheduler", "text_encoder", "tokenizer"), blocks=1)
    model.acquire("transformer", run)
    predict(model, run)
    assert [line for line in run.log if "block" in line] == BLOCKS * 2
    assert left_over(model) == []


def test_an_error_in_a_block_leaves_nothing_behind(wan_model: Any) -> None:
    run, transformer = Ranging(), wan_model.component("transformer")
    with pytest.raises(TypeError), block_ranges(run, transformer, ["blocks"]):
        transformer.blocks[1]()
    assert run.log == ["block blocks.1"]
    assert run.depth == 0
    assert left_over(wan_model) == []


def test_copies_of_a_block_are_their_own(wan_model: Any) -> None:
    run, transformer = Ranging(), wan_model.component("transformer")
    with block_ranges(run, transformer, ["blocks"]):
        twin = copy.deepcopy(transformer.blocks[0])
    assert vars(twin).get("_compiled_call_impl") is None


def test_runs_in_two_threads_hear_of_their_own_calls() -> None:
    stack = torch.nn.Module()
    stack.blocks = torch.nn.ModuleList([torch.nn.Identity()])
    one, other = Ranging(), Ranging()
    inside, leave = threading.Event(), threading.Event()

    def second() -> None:
        with block_ranges(other, stack, ["blocks"]):
            stack.blocks[0](2)
            inside.set()
            leave.wait()
            stack.blocks[0](2)

    thread = threading.Thread(target=second)
    with block_ranges(one, stack, ["blocks"]):
        thread.start()
        inside.wait()
        stack.blocks[0](1)
    leave.set()
    thread.join()
    assert (one.log, other.log) == (["block blocks.0"], ["block blocks.0"] * 2)
    assert "_compiled_call_impl" not in vars(stack.blocks[0])
