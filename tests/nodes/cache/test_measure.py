"""The numbers of a calibration: MagCache's ratios as diffusers measures them, changes by their formula."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from helpers import oracle_magcache, oracle_teacache, tiny
from helpers.calibrating import Calibrating
from helpers.direct import model_of, sample
from helpers.gate_pipelines import FAMILIES, STEPS
from helpers.ours import Pair
from sgd.graph.contract.errors import NodeError
from sgd.graph.contract.node import Here
from sgd.nodes.cache.methods.fora import fora
from sgd.nodes.models.nodes.model_expert import expert

HOOKED = [family for family in FAMILIES if family != "z-image"]


@pytest.fixture(scope="module", params=FAMILIES)
def pair(request, tmp_path_factory):
    return Pair(request.param, tmp_path_factory.mktemp("measured") / request.param)


def measure(pair, gate=None, **options):
    run = Calibrating()
    states = pair.run(gate, run=run, **options)
    return run, states


def change(before: torch.Tensor, now: torch.Tensor) -> float:
    return ((now - before).abs().mean() / before.abs().mean()).item()


def test_ratios_are_those_of_diffusers(pair):
    if pair.family not in HOOKED:
        pytest.skip("diffusers' hook does not take this model")
    reference = oracle_magcache.calibrate(pair.pipeline)
    measured = measure(pair)[0].measured("ratio")
    assert set(measured) == set(reference) == {"positive", "negative"}
    for branch, ratios in reference.items():
        assert len(ratios) == STEPS
        assert len(set(ratios)) == STEPS  # no branch stands still
        assert measured[branch][0] is None
        assert measured[branch][1:] == pytest.approx(ratios[1:], rel=1e-5)


@pytest.mark.parametrize("signal", ["time", "time_projection", "auto"])
def test_signals_change_as_teacache_measures_them(pair, signal):
    if signal not in FAMILIES[pair.family].mixed:
        pytest.skip("not a signal of this family")
    reference = oracle_teacache.changes(pair.pipeline, signal=signal)
    measured = measure(pair)[0].measured("modulated" if signal == "auto" else signal)
    for branch, changes in reference.items():
        assert measured[branch][1:] == pytest.approx(changes[1:], rel=1e-5)


def test_every_family_has_a_modulated_input_and_the_output_changes_as_it_does(pair):
    made: list[torch.Tensor] = []
    transformer = pair.model.component("transformer")
    first = transformer.register_forward_hook(lambda module, args, output: made.append(output[0]))
    try:
        run, _ = measure(pair, scale=None, batched=False)
    finally:
        first.remove()
    outputs = [torch.stack(list(output)) if isinstance(output, list) else output for output in made]
    expected = [change(before, now) for before, now in pairwise(outputs)]
    assert run.measured("output")["positive"][1:] == pytest.approx(expected, rel=1e-5)
    signals = {"modulated", "residual", "output", "ratio"}
    if pair.model.family.time_modules:
        signals |= {"time", "time_projection"}
    (*_, last) = (data["values"] for kind, data in run.events if kind == "measurement")
    assert set(last) == signals
    assert all(value > 0 for value in last.values())


def test_measuring_computes_every_step_and_changes_nothing(pair):
    plain = pair.run()
    run, states = measure(pair, fora(Here("gate"), every=2))
    assert all(torch.equal(mine, other) for mine, other in zip(states, plain, strict=True))
    assert {kind for kind, _ in run.events} == {"measured", "measurement"}
    assert not all(torch.equal(a, b) for a, b in zip(pair.run(fora(Here("gate"), every=2)), plain, strict=True))


@pytest.mark.parametrize("name", ["ratio", "modulated", "residual", "output"])
def test_a_batch_is_measured_branch_by_branch(pair, name):
    apart, together = (measure(pair, batched=batched)[0].measured(name) for batched in (False, True))
    assert set(together) == {"positive", "negative"}
    for branch, values in together.items():
        assert values[1:] == pytest.approx(apart[branch][1:], rel=1e-3)


def test_a_branch_is_compared_with_its_own_last_step(pair):
    if pair.family != "wan":
        pytest.skip("one family is enough")
    run, _ = measure(pair, start=0.25, stop=0.75)
    steps = [data["index"] for kind, data in run.events if kind == "measurement" and data["branch"] == "negative"]
    assert steps == list(range(4, 12))
    assert "ratio" not in next(d["values"] for k, d in run.events if k == "measurement" and d["branch"] == "negative")


def test_experts_are_measured_apart(tmp_path):
    folder = tiny.save("wan", tmp_path / "wan", layers=3, experts=2, boundary_ratio=0.875)
    pair = Pair.__new__(Pair)
    pair.family, pair.model = "wan", model_of(folder)
    plan, start, branches = pair.prepare(steps=8)
    run = Calibrating()
    low = expert(pair.model, "transformer_2")
    with torch.no_grad():
        sample(pair.model, plan, start, branches, model_below=low, boundary=0.875, run=run)
    above = sum(step.timestep >= 875 for step in plan)
    assert 1 < above < 7
    for component, steps in (("transformer", above), ("transformer_2", 8 - above)):
        ratios = run.measured("ratio", component)
        assert {len(row) for row in ratios.values()} == {steps}
        assert all(row[0] is None and None not in row[1:] for row in ratios.values())
    uses = {data["use"]["component"]: data["use"] for kind, data in run.events if kind == "measured"}
    assert [*uses["transformer"]["timesteps"], *uses["transformer_2"]["timesteps"]] == [s.timestep for s in plan]
    assert uses["transformer"]["weights"] != uses["transformer_2"]["weights"]


def test_random_weights_are_refused(wan_folder):
    pair = Pair.__new__(Pair)
    pair.family, pair.model = "wan", model_of(wan_folder)
    pair.model = replace(pair.model, weights=replace_kind(pair.model.weights))
    with pytest.raises(NodeError, match="random weights"):
        measure(pair, steps=2)


def replace_kind(weights):
    weights.kind = "dummy"
    return weights
