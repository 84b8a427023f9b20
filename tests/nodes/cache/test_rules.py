"""Rules of every gate: nothing of a run in another, nothing left in the model, nothing waited for without need."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
import torch
from helpers import gate_pipelines
from helpers.direct import DirectRun, sample
from helpers.gate_pipelines import FAMILIES, STEPS
from helpers.ours import Pair, counted
from sgd.graph.contract.errors import NodeError
from sgd.graph.contract.node import Here
from sgd.nodes import cfg, denoiser, schedule
from sgd.nodes.cache.methods.custom_gate import gate as custom
from sgd.nodes.cache.methods.dbcache import dbcache
from sgd.nodes.cache.methods.easycache import easycache
from sgd.nodes.cache.methods.fora import fora
from sgd.nodes.cache.methods.magcache import magcache
from sgd.nodes.cache.methods.no_gate import none
from sgd.nodes.cache.methods.scm import scm
from sgd.nodes.cache.methods.taylorseer import taylorseer
from sgd.nodes.cache.methods.teacache import teacache
from sgd.nodes.cache.state import GateState
from sgd.nodes.cfg import GuiderState
from sgd.nodes.schedule import SchedulerState
from torch.overrides import TorchFunctionMode

HERE = Here("gate")
RATIOS = [1.0] + [0.99 - 0.02 * ((index * 7) % 5) for index in range(STEPS - 1)]


@pytest.fixture(scope="module", params=FAMILIES)
def pair(request, tmp_path_factory):
    return Pair(request.param, tmp_path_factory.mktemp("gates") / request.param)


def ready(family):
    """A gate of each method that reuses something with this family."""
    threshold = FAMILIES[family].mixed["dbcache"]
    signal = "time" if family == "wan" else "modulated"
    return {
        "dbcache": dbcache(HERE, threshold=threshold, warmup_steps=3),
        "taylorseer": taylorseer(HERE, order=2, threshold=threshold, warmup_steps=4, back_blocks=1),
        "scm": scm(HERE, preset="fast"),
        "scm dynamic": scm(HERE, preset="fast", policy="dynamic", threshold=threshold),
        "teacache": teacache(HERE, coefficients=[1.0, 0.0], threshold=2.0, signal=signal),
        "magcache": magcache(HERE, ratios=RATIOS, threshold=0.1, max_consecutive=3),
        "easycache": easycache(HERE, threshold=FAMILIES[family].mixed["easycache"], warmup_steps=2),
        "fora": fora(HERE, every=3),
        "gate": custom(HERE, signal="modulated", rule="change", threshold=0.5, order=1, last=True),
    }


def never(family):
    """The same methods, set so that everything is computed."""
    return {
        "none": none(HERE),
        "dbcache": dbcache(HERE, threshold=0.0),
        "taylorseer": taylorseer(HERE, threshold=1e-9, order=2, back_blocks=1),
        "scm": scm(HERE, mask="1" * STEPS, front_blocks=0),
        "teacache": teacache(HERE, coefficients=[1.0, 0.0], threshold=0.0, signal="modulated"),
        "magcache": magcache(HERE, ratios=RATIOS, threshold=0.1, max_consecutive=0),
        "easycache": easycache(HERE, threshold=0.0),
        "fora": fora(HERE, every=1),
        "warm-up": dbcache(HERE, threshold=1.0, warmup_steps=STEPS),
    }


@dataclass(frozen=True)
class Plain:
    """A run without a gate: the latents after every step, the calls of blocks, and what a host waits for."""

    latents: list[torch.Tensor]
    blocks: int
    waits: int


@cache
def plain(pair):
    with counted(pair.model) as blocks:
        latents = pair.run()
    return Plain(latents, blocks[0], waits(pair, None))


@pytest.mark.parametrize("method", sorted(never("wan")))
def test_a_gate_that_always_computes_is_none(pair, method):
    gated = pair.run(never(pair.family)[method])
    assert all(torch.equal(a, b) for a, b in zip(plain(pair).latents, gated, strict=True))


@pytest.mark.parametrize("method", sorted(ready("wan")))
def test_fewer_blocks_run_and_the_record_says_how_many(pair, method):
    run = DirectRun()
    with counted(pair.model) as gated:
        pair.run(ready(pair.family)[method], run=run)
    totals = [data for kind, data in run.events if kind == "gate_total"]
    assert gated[0] < plain(pair).blocks
    assert {total["branch"] for total in totals} == set(BRANCHES)
    for total in totals:
        rows = [data for kind, data in run.events if kind == "gate" and data["branch"] == total["branch"]]
        assert [row["step"] for row in rows] == list(range(STEPS))
        assert "".join(str(int(row["computed"])) for row in rows) == total["steps"]
        assert total["computed"] == total["steps"].count("1")
        assert total["reused"] == total["steps"].count("0") > 0
        assert total["ratio"] == total["reused"] / STEPS
    assert not run.warnings


BRANCHES = ("positive", "negative")


@pytest.mark.parametrize("method", ["dbcache", "taylorseer", "easycache"])
def test_a_run_is_the_same_after_one_of_another_size(pair, method):
    gate = ready(pair.family)[method]
    first = pair.run(gate)
    pair.run(gate, size=64, seed=3)
    assert all(torch.equal(a, b) for a, b in zip(first, pair.run(gate), strict=True))


@pytest.mark.slow
def test_two_runs_in_one_process_equal_two_processes(tmp_path):
    """With sizes of their own, and a step interval without the negative branch."""
    tests = Path(__file__).parents[2]
    folders = [str(tests / "nodes" / "cache"), str(tests)]
    program = f"""
import sys
sys.path[:0] = {folders!r}
import torch
from pathlib import Path
torch.set_num_threads(1)
from helpers.ours import Pair
from test_rules import ready
pair = Pair("wan", Path(sys.argv[1]) / "wan")
for number, (size, seed) in enumerate(eval(sys.argv[2])):
    for method in ("dbcache", "taylorseer", "easycache"):
        made = pair.run(ready("wan")[method], size=size, seed=seed, start=0.25, stop=0.75)
        torch.save(made[-1], Path(sys.argv[1]) / f"{{method}}-{{size}}.pt")
"""

    def process(folder, sizes):
        (tmp_path / folder).mkdir()
        subprocess.run(
            [sys.executable, "-c", program, str(tmp_path / folder), json.dumps(sizes)], check=True, capture_output=True
        )

    process("both", [[32, 0], [48, 1]])
    process("small", [[32, 0]])
    process("large", [[48, 1]])
    for method in ("dbcache", "taylorseer", "easycache"):
        for folder, size in (("small", 32), ("large", 48)):
            alone, after = (torch.load(tmp_path / name / f"{method}-{size}.pt") for name in (folder, "both"))
            assert torch.equal(alone, after), (method, size)


def test_an_interval_that_skips_a_branch(pair):
    """The positive branch is not disturbed by where the negative one runs; each counts the steps of the schedule."""
    if FAMILIES[pair.family].together:
        pytest.skip("its branches are one batch")
    run, always = DirectRun(), DirectRun()
    gate = scm(HERE, mask="1111001100110011")
    pair.run(gate, run=run, start=0.25, stop=0.75)
    pair.run(gate, run=always)
    steps = {data["branch"]: data["steps"] for kind, data in run.events if kind == "gate_total"}
    # The negative branch has nothing to reuse at step 4, its first, where the mask would.
    assert steps == {"positive": "1111001100110011", "negative": "10110011"}
    rows = [data for kind, data in run.events if kind == "gate" and data["branch"] == "negative"]
    assert [row["step"] for row in rows] == list(range(4, 12))
    assert rows[0]["reason"] == "first"


def test_a_batch_that_is_one_for_part_of_the_steps(pair):
    """Each branch keeps its state, whether it is one batch with the other or by itself."""
    run = DirectRun()
    pair.run(scm(HERE, mask="1111001100110011"), run=run, start=0.25, stop=0.75, batched=True)
    steps = {data["branch"]: data["steps"] for kind, data in run.events if kind == "gate_total"}
    assert steps == {"positive": "1111001100110011", "negative": "10110011"}


class Waits(TorchFunctionMode):
    """Counts what would make a host wait for its device."""

    NAMES = ("item", "tolist", "cpu", "numpy", "__bool__", "__float__", "__int__", "__index__", "nonzero")

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        # HunyuanVideo's mask and the lengths of prompts are kept on the CPU, and reading them waits for nothing.
        if getattr(func, "__name__", "") in self.NAMES and args[0].is_floating_point():
            self.count += 1
        return func(*args, **(kwargs or {}))


def waits(pair, gate):
    plan, start, branches = pair.prepare()
    with torch.no_grad(), Waits() as seen:
        sample(pair.model, plan, start, branches, gate=gate)
    return seen.count


def test_schedules_known_ahead_wait_for_nothing(pair):
    for method in ("scm", "magcache", "fora"):
        assert waits(pair, ready(pair.family)[method]) == plain(pair).waits, method
    assert waits(pair, dbcache(HERE, threshold=1.0, warmup_steps=3)) == plain(pair).waits


def test_a_time_embedding_is_read_once_for_each_branch_before_the_first_step(pair):
    if pair.family != "wan":
        pytest.skip("no embedding of the timestep alone")
    assert waits(pair, ready("wan")["teacache"]) == plain(pair).waits + 2


@pytest.mark.parametrize("method", ["dbcache", "taylorseer", "scm dynamic", "easycache", "gate"])
def test_others_wait_once_for_each_step_and_branch_that_is_measured(pair, method):
    run, gate = DirectRun(), ready(pair.family)[method]
    pair.run(gate, run=run)
    together = FAMILIES[pair.family].together  # one number for each branch, and one wait for both
    rows = [data for kind, data in run.events if kind == "gate" and data["distance"] is not None]
    measured = {(row["step"], None if together else row["branch"]) for row in rows}
    assert 0 < len(measured) <= STEPS * len(BRANCHES)
    assert waits(pair, gate) == plain(pair).waits + len(measured)


def test_nothing_is_left_in_the_model_when_a_run_fails_half_way(pair):
    transformer = pair.model.component("transformer")
    modules = list(transformer.modules())
    before = [(module, gate_pipelines.state(module)) for module in modules]
    before_all = plain(pair).latents
    last = getattr(transformer, list(pair.model.family.blocks.lists)[-1])[-1]
    calls = [0]

    def fail(*_):
        calls[0] += 1
        if calls[0] == 4:
            raise RuntimeError("out of luck")

    for gate in (ready(pair.family)["dbcache"], ready(pair.family)["scm"]):
        calls[0] = 0
        handle = last.register_forward_hook(fail)
        with pytest.raises(RuntimeError, match="out of luck"):
            pair.run(gate)
        handle.remove()
        assert list(transformer.modules()) == modules
        for module, (attributes, children) in before:
            now, own = gate_pipelines.state(module)
            assert list(own or ()) == list(children or ())
            assert all(own[name] is child for name, child in (children or {}).items())
            assert set(now) == set(attributes)
        assert all(torch.equal(a, b) for a, b in zip(before_all, pair.run(), strict=True))


def test_a_gate_that_reused_nothing_names_the_threshold_that_would_have(pair):
    for make in (
        lambda threshold: dbcache(HERE, threshold=threshold, warmup_steps=3),
        lambda threshold: easycache(HERE, threshold=threshold, warmup_steps=2),
        lambda threshold: magcache(HERE, ratios=RATIOS, threshold=threshold, max_consecutive=3),
    ):
        run = DirectRun()
        pair.run(make(1e-6), run=run)
        [warning] = run.warnings
        assert "reused nothing" in warning
        least = float(warning.split("would reuse a step is ")[1])
        after, under = DirectRun(), DirectRun()
        pair.run(make(least), run=after)
        assert sum(data["reused"] for kind, data in after.events if kind == "gate_total") >= 1
        pair.run(make(least * 0.99), run=under)
        assert sum(data["reused"] for kind, data in under.events if kind == "gate_total") == 0


def test_a_gate_whose_limits_forbid_everything_says_which(pair):
    run = DirectRun()
    pair.run(dbcache(HERE, threshold=0.5, warmup_steps=STEPS), run=run)
    [warning] = run.warnings
    assert "warm-up" in warning
    run = DirectRun()
    pair.run(dbcache(HERE, threshold=0.5, warmup_steps=1, max_consecutive=0), run=run)
    [warning] = run.warnings
    assert "longest run" in warning
    assert '"max_consecutive": 0' in warning


def test_an_impossible_gate_is_reported_before_the_first_block_runs(pair):
    wrong = {
        "digits": scm(HERE, mask="1100"),
        "blocks": dbcache(HERE, front_blocks=40),
        "ratios": magcache(HERE, ratios=[1.0, 1.0]),
        "first step": scm(HERE, mask="0" + "1" * (STEPS - 1)),
    }
    for words, gate in wrong.items():
        with counted(pair.model) as calls, pytest.raises(NodeError, match=words):
            pair.run(gate)
        assert calls[0] == 0


def test_coefficients_of_another_model_are_not_borrowed(pair):
    with pytest.raises(NodeError, match="no coefficients were published"):
        pair.run(teacache(HERE, threshold=0.1))
    with pytest.raises(NodeError, match="no ratios were published"):
        pair.run(magcache(HERE))


def test_a_gate_that_stands_in_the_loop_is_one_gate(pair):
    """It is made anew at each step; equal gates share their state."""
    threshold = FAMILIES[pair.family].mixed["dbcache"]
    plan, start, branches = pair.prepare()
    states = []
    scheduler, guider, gates, run = SchedulerState(), GuiderState(), GateState(), DirectRun()
    now = start
    with torch.no_grad():
        for step in plan:
            gate = dbcache(HERE, threshold=threshold, warmup_steps=3)
            predictions = denoiser.predict(pair.model, now, step, branches, gates, run, gate=gate)
            now = schedule.step(plan, step, now, cfg.merge(predictions, branches, guider), scheduler)
            states.append(now.tensor)
    gates.end()
    expected = pair.run(dbcache(HERE, threshold=threshold, warmup_steps=3))
    assert all(torch.equal(a, b) for a, b in zip(states, expected, strict=True))


def test_branches_that_come_unexpectedly(pair):
    """A scale that changes within the loop: the negative branch is not foreseen at the first step."""
    if FAMILIES[pair.family].together:
        pytest.skip("its branches are one batch")
    for gate in (scm(HERE, mask="1100110011001100"), ready(pair.family)["dbcache"]):
        plan, start, guided = pair.prepare()
        _, _, alone = pair.prepare(scale=None)
        scheduler, guider, gates, run, now = SchedulerState(), GuiderState(), GateState(), DirectRun(), start
        with torch.no_grad():
            for step in plan:
                branches = guided if 5 <= step.index < 12 else alone
                predictions = denoiser.predict(pair.model, now, step, branches, gates, run, gate=gate)
                now = schedule.step(plan, step, now, cfg.merge(predictions, branches, guider), scheduler)
        gates.end()
        rows = [data for kind, data in run.events if kind == "gate" and data["branch"] == "negative"]
        assert [row["step"] for row in rows] == list(range(5, 12))
        assert rows[0]["reason"] == "first"
        assert now.tensor.isfinite().all()


def test_lists_that_decide_separately_compare_their_own_residuals(pair):
    if len(FAMILIES[pair.family].lists) == 1:
        pytest.skip("one list of blocks")
    gate = custom(HERE, signal="modulated", rule="change", threshold=0.5, stacks="separate")
    with pytest.raises(NodeError, match="first list of blocks"):
        pair.run(gate)


def in_turn(pair, gates):
    """Steps in the loop of a workflow, each with the gate and the branches that `gates` gives for its index."""
    plan, start, _ = pair.prepare()
    scheduler, guider, states, run, now = SchedulerState(), GuiderState(), GateState(), DirectRun(), start
    with torch.no_grad():
        for step in plan:
            gate, branches = gates(step.index)
            predictions = denoiser.predict(pair.model, now, step, branches, states, run, gate=gate)
            now = schedule.step(plan, step, now, cfg.merge(predictions, branches, guider), scheduler)
    states.end()
    assert now.tensor.isfinite().all()
    return run


def test_a_gate_that_comes_later_has_nothing_to_reuse_yet(pair):
    """`schedule.choose` exchanges gates on one model: the mask of the second would reuse where it begins."""
    _, _, branches = pair.prepare()
    early, late = dbcache(HERE, threshold=0.0), scm(Here("late"), mask="1111100000110011")
    run = in_turn(pair, lambda index: (early if index < 7 else late, branches))
    for branch in BRANCHES:
        rows = [d for kind, d in run.events if kind == "gate" and (d["gate"], d["branch"]) == ("late", branch)]
        assert [row["step"] for row in rows] == list(range(7, STEPS))
        assert "".join(str(int(row["computed"])) for row in rows) == "100110011"
        assert rows[0]["reason"] == "first"


def test_a_branch_that_rests_where_it_was_to_be_computed(pair):
    """The scale is neutral for some steps within the loop, which nobody could know before the first."""
    if FAMILIES[pair.family].together:
        pytest.skip("its branches are one batch")
    (_, _, guided), (_, _, alone) = pair.prepare(), pair.prepare(scale=None)
    for order in (0, 2):
        gate = scm(HERE, mask="1111000011110000", order=order)
        run = in_turn(pair, lambda index, gate=gate: (gate, alone if 3 <= index < 6 else guided))
        rows = [d for kind, d in run.events if kind == "gate" and d["branch"] == "negative"]
        assert [row["step"] for row in rows] == [0, 1, 2, *range(6, STEPS)]
        # Without an expansion step 2 keeps nothing, as step 3 was to be computed.
        assert rows[3]["reason"] == ("unforeseen" if order == 0 else "mask")
        assert "".join(str(int(row["computed"])) for row in rows[5:]) == "11110000"


def test_a_branch_that_runs_longer_than_was_known(pair):
    if FAMILIES[pair.family].together:
        pytest.skip("its branches are one batch")
    (_, _, early), (_, _, late) = pair.prepare(stop=0.25), pair.prepare(start=0.5)
    gate = scm(HERE, mask="1111000011110000")
    run = in_turn(pair, lambda index: (gate, early if index < 8 else late))
    rows = [d for kind, d in run.events if kind == "gate" and d["branch"] == "negative"]
    assert [row["step"] for row in rows] == [*range(4), *range(8, STEPS)]
    assert all(row["computed"] and row["reason"] == "unforeseen" for row in rows[4:])


def test_a_model_that_is_chosen_on_both_sides_has_a_gate_for_each(pair):
    """The same transformer, with the gate's steps counted over each side of the boundary."""
    plan, start, branches = pair.prepare()
    boundary = plan.steps[7].timestep / plan.steps[0].train_timesteps
    run = DirectRun()
    with torch.no_grad():
        sample(
            pair.model,
            plan,
            start,
            branches,
            model_below=pair.model,
            boundary=boundary,
            gate=scm(HERE, mask="11100101"),
            run=run,
        )
    for branch in BRANCHES:
        totals = [d["steps"] for kind, d in run.events if kind == "gate_total" and d["branch"] == branch]
        assert totals == ["11100101", "11100101"]
