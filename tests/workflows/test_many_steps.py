"""Commands that run nothing take as long for 100,000 steps as for ten; more steps are refused."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
import sgd
from sgd.graph.cli.difference import difference
from sgd.graph.cli.picture import FORMATS
from sgd.graph.compiler.compile import check
from sgd.graph.contract.workflow_folders import bundled_workflows
from sgd.graph.language.literals import Given
from sgd.graph.runtime.estimate import estimate
from sgd.nodes.schedule import MOST_STEPS

FOLDER = bundled_workflows()
NAMES = sorted(path.stem for path in FOLDER.glob("*.yaml"))
VALUES = {"str": "a boat", "path": FOLDER / "images" / "boat.png"}
GATES = [
    "cache.fora, with: {every: 3}",
    "cache.dbcache, with: {threshold: 0.12, warmup_steps: 4}",
    "cache.taylorseer, with: {threshold: 0.2, order: 1}",
    "cache.scm, with: {preset: medium}",
    "cache.teacache, with: {threshold: 2.0, coefficients: [1, 0]}",
    "cache.easycache, with: {threshold: 3.0}",
    "cache.gate, with: {rule: change, signal: front, front_blocks: 1, threshold: 0.9, last: true}",
    "cache.library, with: {Fn_compute_blocks: 1, max_warmup_steps: 3, residual_diff_threshold: 0.9}",
]
SLACK = 0.3
"""Seconds of processor time that a busy machine may add."""


def inputs_of(name: str, steps: int) -> dict[str, object]:
    graph = check(FOLDER / f"{name}.yaml", fold_inputs=False).graph
    assert graph is not None
    given: dict[str, object] = {n: VALUES[str(d.type)] for n, d in graph.inputs.items() if d.required}
    return given | {n: steps for n in graph.inputs if n in ("steps", "image_steps")}


def seconds(function: Callable[[], object], times: int = 2) -> float:
    """The least processor time of some calls."""
    found = []
    for _ in range(times):
        began = time.process_time()
        function()
        found.append(time.process_time() - began)
    return min(found)


def compiled(name: str, steps: int) -> object:
    given = {n: Given(v, False, Path("/")) for n, v in inputs_of(name, steps).items()}
    result = check(FOLDER / f"{name}.yaml", given, complete=True, options={})
    assert result.graph is not None, result.diagnostics
    drawn = [draw(result.graph, None) for draw in FORMATS.values()]
    return drawn, difference(result.graph, result.graph), sgd.compile(name, inputs=inputs_of(name, steps))


@pytest.mark.parametrize("name", NAMES)
def test_checks_graphs_and_differences_do_not_grow_with_the_steps(name: str) -> None:
    few, many = (seconds(lambda steps=steps: compiled(name, steps)) for steps in (10, MOST_STEPS))
    assert many < 2 * few + SLACK, f"{many:.2f} s for {MOST_STEPS} steps, {few:.2f} s for 10"


@pytest.mark.parametrize(
    ("name", "steps"), [*((name, 10**8) for name in NAMES), ("quickstart", MOST_STEPS + 1), ("quickstart", 10**300)]
)
def test_more_steps_are_refused_at_once(name: str, steps: int) -> None:
    began = time.process_time()
    with pytest.raises(sgd.Problems, match="less than or equal to 100000"):
        sgd.compile(name, inputs=inputs_of(name, steps))
    assert time.process_time() - began < 1


def planned(file: str | Path, inputs: dict[str, object], steps: int) -> None:
    plan = sgd.compile(file, inputs=inputs)
    found = estimate(plan, options={"weights": "dummy", "device": "cpu"})
    assert {row["calls"] for row in found["nodes"] if row["type"] == "denoiser.predict"} == {steps}


def grows(file: str | Path, inputs: Callable[[int], dict[str, object]]) -> str | None:
    """How a plan grows with the steps; None if it does not."""
    planned(file, inputs(10), 10)
    few, many = (seconds(lambda steps=steps: planned(file, inputs(steps), steps)) for steps in (10, MOST_STEPS))
    return None if many < 1.5 * few + 2 * SLACK else f"{many:.2f} s for {MOST_STEPS} steps, {few:.2f} s for 10"


@pytest.mark.slow
def test_plans_do_not_grow_with_the_steps() -> None:
    assert grows("quickstart", lambda steps: inputs_of("quickstart", steps)) is None


@pytest.mark.slow
@pytest.mark.parametrize("gate", GATES)
def test_plans_with_a_gate_do_not_grow_with_the_steps(tmp_path: Path, gate: str) -> None:
    text = (FOLDER / "quickstart.yaml").read_text()
    text = text.replace("./parts/", "sgd:parts/").replace(".yaml, with", ", with")
    text = text.replace("./models/tiny-wan", str(FOLDER / "models" / "tiny-wan"))
    before = next(line for line in text.splitlines() if line.startswith("  gate: "))
    (tmp_path / "w.yaml").write_text(text.replace(before, f"  gate: {{uses: {gate}}}"))
    assert grows(tmp_path / "w.yaml", lambda steps: {"steps": steps}) is None
