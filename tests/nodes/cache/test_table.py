"""Gates that take a table: they decide by its numbers, and are refused where it was not made for them."""

from __future__ import annotations

import json
import math
import os
from types import SimpleNamespace

import pytest
import torch
from helpers import oracle_magcache, oracle_teacache
from helpers.calibrating import Calibrating, calibrate, tabled
from helpers.direct import DirectRun, sample
from helpers.gate_pipelines import STEPS
from helpers.ours import Pair
from sgd.graph.contract.errors import NodeError
from sgd.graph.contract.node import Here
from sgd.nodes import schedule
from sgd.nodes.cache.calibration import table as module
from sgd.nodes.cache.calibration.filled_gate import Use, filled
from sgd.nodes.cache.gate import Gate
from sgd.nodes.cache.methods.magcache import magcache
from sgd.nodes.cache.methods.teacache import teacache

HERE = Here("gate")
ABOVE = 1.2  # times the mean estimated change: some steps are reused and some computed


@pytest.fixture(scope="module", params=["wan", "flux"])
def pair(request, tmp_path_factory):
    return Pair(request.param, tmp_path_factory.mktemp("tables") / request.param)


@pytest.fixture(scope="module")
def file(pair, tmp_path_factory):
    path = tmp_path_factory.mktemp("table") / "table.json"
    calibrate(pair, path)
    return path


@pytest.fixture
def table(file):
    return json.loads(file.read_text())


def estimated(part, signal):
    """The mean of what the polynomial says of the measured changes."""
    coefficients = part["polynomials"][signal]["coefficients"]
    changes = part["branches"]["positive"]["changes"][signal][1:]
    return sum(sum(c * x**p for p, c in enumerate(reversed(coefficients))) for x in changes) / len(changes)


def test_teacache_decides_by_the_tables_polynomial(pair, file, table):
    part = table["components"]["transformer"]
    signal = "time" if pair.model.family.time_modules else "modulated"
    threshold = ABOVE * estimated(part, signal)
    made = pair.outcome(teacache(HERE, table=file, threshold=threshold))
    coefficients = part["polynomials"][signal]["coefficients"]
    reference = oracle_teacache.run(
        pair.pipeline, coefficients, threshold, signal="auto" if signal == "modulated" else signal
    )
    for branch, expected in reference.decisions.items():
        assert 0 < len(expected.cached) < STEPS - 2
        assert made.decisions[branch].computed == expected.computed
    for mine, theirs in zip(made.latents, reference.latents, strict=True):
        assert torch.allclose(mine, theirs, rtol=0, atol=1e-5 * theirs.abs().max().item())


@pytest.mark.parametrize("batched", [False, True])
def test_magcache_decides_by_the_tables_ratios(pair, file, table, batched):
    rows = {b: found["ratios"] for b, found in table["components"]["transformer"]["branches"].items()}
    assert set(rows) == {"positive", "negative"}
    error = sum(abs(1 - ratio) for row in rows.values() for ratio in row[1:]) / (len(rows) * (STEPS - 1))
    made = pair.outcome(magcache(HERE, table=file, threshold=2.5 * error), batched=batched)
    assert set(made.decisions) == set(rows)
    for branch, row in rows.items():
        # The gate's origin for HunyuanVideo: int(0.2 * 16) steps are computed at the start.
        expected = oracle_magcache.schedule([1.0, *row[1:]], 2.5 * error, STEPS, 3)
        assert 0 < len(expected.cached) < STEPS - 3
        assert made.decisions[branch].computed == expected.computed


def test_a_branch_that_pauses_takes_the_ratios_of_skipped_steps(pair, file, table):
    row = table["components"]["transformer"]["branches"]["negative"]["ratios"]
    made = pair.outcome(magcache(HERE, table=file, threshold=1e9, retention=0.0), start=0.25, stop=0.75)
    distances = made.decisions["negative"].distances
    ratio, error, expected = 1.0, 0.0, [None]
    for step in range(5, 12):
        ratio *= row[step]
        error += abs(1 - ratio)
        expected.append(error)
    assert distances[0] is None
    assert distances[1:] == pytest.approx(expected[1:], rel=1e-9)


GATES = {"teacache": teacache, "magcache": magcache}


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"steps": 9}, "made for 16 steps, and the loop has 9"),
        ({"scheduler": "other"}, "Scheduler, and the workflow uses"),
        ({"shift": 1.7}, "other timesteps: step"),
    ],
)
def test_another_schedule_is_refused(pair, file, gate, change, says):
    options = dict(change)
    if options.get("scheduler"):
        own = type(pair.model.component("scheduler")).__name__
        options["scheduler"] = "euler" if own.startswith("UniPC") else "unipc"
    plan, start, branches = pair.prepare()
    plan = schedule.make(pair.model, latents=start, **{"steps": STEPS, **options})
    with pytest.raises(NodeError, match=says):
        sample(pair.model, plan, start, branches, gate=GATES[gate](HERE, table=file, threshold=0.1))


def edited(file, tmp_path, edit):
    content = json.loads(file.read_text())
    edit(content["components"])
    path = tmp_path / "edited.json"
    path.write_text(json.dumps(content))
    return path


def swap(name, value):
    def edit(components):
        components["transformer"][name] = value

    return edit


def other_component(components):
    components["transformer_2"] = components.pop("transformer")


def later(components):
    part = components["transformer"]
    part["timesteps"] = [timestep + 1 for timestep in part["timesteps"]]


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (swap("class_name", "OtherModel"), "made for a OtherModel"),
        (swap("config", "0" * 16), "of another configuration"),
        (swap("weights", "sha256:0"), "other weights of transformer"),
        (swap("adapters", ["sha256:0 x 1"]), "made with 1 LoRAs, and the model has 0"),
        (other_component, "made for transformer_2, and not for transformer"),
        (later, "other timesteps: step 0"),
    ],
)
def test_another_model_is_refused(pair, file, tmp_path, edit, says):
    path = edited(file, tmp_path, edit)
    with pytest.raises(NodeError, match=says):
        pair.run(magcache(HERE, table=path, threshold=0.1))


def test_weights_that_differ_in_one_number_are_refused(file, pair, tmp_path):
    other = Pair(pair.family, tmp_path / "other")
    assert other.run(magcache(HERE, table=file, threshold=0.1))  # built alike, so the same weights
    parameter = next(other.model.component("transformer").parameters())
    with torch.no_grad():
        parameter.view(-1)[0] += 1
    folder = other.model.weights.repository.folder / "transformer"
    other.model.component("transformer").save_pretrained(folder)
    with pytest.raises(NodeError, match="other weights of transformer"):
        other.run(magcache(HERE, table=file, threshold=0.1))


def test_a_signal_without_a_polynomial_is_refused(pair, tmp_path):
    table = calibrate(pair, tmp_path / "t.json", steps=4)
    gate = teacache(HERE, table=tmp_path / "t.json", threshold=0.1)
    found = set(table["components"]["transformer"]["polynomials"])
    if pair.family == "wan":  # three changes, the same for both branches, do not determine five coefficients
        assert found == set()
        with pytest.raises(NodeError, match="no polynomial for the signal time: it has no polynomials"):
            pair.run(gate, steps=4)
    else:  # FLUX modulates by the prompt too
        assert found == {"modulated"}
        assert pair.run(gate, steps=4)


def test_a_threshold_is_needed(pair, file):
    for gate in GATES.values():
        with pytest.raises(NodeError, match="has no threshold"):
            pair.run(gate(HERE, table=file))


def test_branches_that_were_not_measured_are_refused(pair, tmp_path):
    path = tmp_path / "t.json"
    calibrate(pair, path, scale=None)
    with pytest.raises(NodeError, match="no ratios for the branch negative: the branch was not measured"):
        pair.run(magcache(HERE, table=path, threshold=0.1))
    assert pair.run(magcache(HERE, table=path, threshold=0.1), scale=None)
    assert pair.run(teacache(HERE, table=path, threshold=0.1))  # its polynomial is for all branches
    calibrate(pair, path, start=0.25)
    with pytest.raises(NodeError, match="no ratio for step 1 of the branch negative: the branch did not run there"):
        pair.run(magcache(HERE, table=path, threshold=0.1))
    assert pair.run(magcache(HERE, table=path, threshold=0.1), start=0.5)


def test_a_branch_that_comes_unexpectedly_and_was_not_measured_is_computed(file, tmp_path):
    def without_negative(components):
        del components["transformer"]["branches"]["negative"]

    table = edited(file, tmp_path, without_negative)
    gate = Gate("magcache", rule="magnitude", threshold=1.0, table=str(table))
    made = filled(gate, Use(component="transformer", branches={"positive": range(STEPS)}))
    assert not any(map(math.isnan, made.ratios["positive"]))
    assert all(map(math.isnan, made.ratios["negative"]))


def test_several_runs_are_averaged(pair):
    runs = [Calibrating(), Calibrating()]
    for seed, run in enumerate(runs):
        pair.run(run=run, seed=seed)
    plan, *_ = pair.prepare()
    table = tabled(runs, plan)
    first, second = (run.measured("ratio")["positive"] for run in runs)
    mean = table["components"]["transformer"]["branches"]["positive"]["ratios"]
    assert first[1:] != second[1:]
    assert mean[0] is None
    assert mean[1:] == pytest.approx([(a + b) / 2 for a, b in zip(first[1:], second[1:], strict=True)])
    assert table["components"]["transformer"]["polynomials"]["modulated"]["points"] == 2 * 2 * (STEPS - 1)
    assert table["prompts"]["loops"] == 2
    assert module.Table.model_validate(table)


def test_a_single_step_makes_no_table(pair):
    run = Calibrating()
    pair.run(run=run, steps=1)
    with pytest.raises(NodeError, match="one step gives no change"):
        tabled([run], pair.prepare(steps=1)[0])


def test_two_schedules_in_one_workflow_make_no_table(pair):
    runs = [Calibrating(), Calibrating()]
    for steps, run in zip((4, 5), runs, strict=True):
        pair.run(run=run, steps=steps)
    with pytest.raises(NodeError, match="another model, schedule, size or LoRA"):
        tabled(runs, pair.prepare(steps=4)[0])


def test_dummy_weights_cannot_be_compared_and_it_is_said(file, pair, tmp_path):
    other = Pair(pair.family, tmp_path / "other")
    other.model.weights.kind = "dummy"
    run = DirectRun()
    assert other.run(magcache(HERE, table=file, threshold=0.1), run=run)
    assert any("cannot verify that" in warning and "the weights are random" in warning for warning in run.warnings)


GOOD = {"sgd_table": 1}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[]", "has no `sgd_table`"),
        (b'"text"', "has no `sgd_table`"),
        (b"{}", "has no `sgd_table`"),
        (b'{"sgd_table": 2}', "version 2, and this sgd reads 1"),
        (b'{"sgd_table": [' + b"1," * 5000 + b"1]}", "version"),
        (b'{"sgd_table": 1}', "damaged table: made"),
        (b'{"sgd_table": 1, "made": NaN}', "`NaN` is not JSON"),
    ],
)
def test_a_file_that_is_no_table(tmp_path, content, says):
    path = tmp_path / "t.json"
    path.write_bytes(content)
    with pytest.raises(NodeError, match=says) as found:
        module.read(path)
    assert len(str(found.value)) < 400


@pytest.mark.parametrize(
    "edit",
    [
        lambda t: t["components"].clear(),
        lambda t: t["components"]["transformer"]["timesteps"].pop(),
        lambda t: t["components"]["transformer"]["branches"].clear(),
        lambda t: t["components"]["transformer"]["branches"]["positive"]["ratios"].pop(),
        lambda t: t["components"]["transformer"]["branches"]["positive"]["ratios"].__setitem__(2, math.nan),
        lambda t: t["components"]["transformer"]["polynomials"]["modulated"]["coefficients"].clear(),
        lambda t: t["components"]["transformer"]["polynomials"]["modulated"]["coefficients"].__setitem__(0, math.inf),
        lambda t: t["components"]["transformer"].__setitem__("unknown", 1),
        lambda t: t["schedule"].__setitem__("steps", "many"),
        lambda t: t.pop("model"),
    ],
)
def test_a_damaged_table(tmp_path, table, edit):
    path = tmp_path / "t.json"
    path.write_text(json.dumps(table))
    assert module.read(path)
    edit(table)
    path.write_text(json.dumps(table))
    with pytest.raises(NodeError, match=r"damaged table|t\.json:1:\d+: `(NaN|Infinity)` is not JSON"):
        module.read(path)


@pytest.mark.parametrize("name", ["missing.json", ".", "x" * 5000, "a\0b"])
def test_a_path_that_is_no_file(tmp_path, name):
    with pytest.raises(NodeError, match="cannot read the table"):
        module.read(f"{tmp_path}/{name}")


def test_endless_files_are_not_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", "/dev/zero"):
        with pytest.raises(NodeError, match="not a regular file"):
            module.read(path)


def test_a_file_too_large_is_not_read(tmp_path):
    path = tmp_path / "t.json"
    with path.open("wb") as stream:
        stream.truncate(module.LARGEST + 1)
    with pytest.raises(NodeError, match="is not a table"):
        module.read(path)


def test_a_scheduler_of_an_unknown_name_and_settings_of_numpy_are_plain():
    import numpy as np
    from sgd.nodes.cache.calibration.measurements import plain

    given = [np.float32(0.5), (np.int64(3), None), np.array([1.0, 2.0]), "a", True, SimpleNamespace]
    assert json.loads(json.dumps(plain(given)))[:5] == [0.5, [3, None], [1.0, 2.0], "a", True]
