"""The cost of the checks of values in a denoise loop: `python tests/benchmarks/finite.py [--device cuda]`.

Steps of one run take turns: with the check of finite numbers, and without. Both belong to one process, one model and
one moment, so that other work on the machine meets both. The difference of each pair is divided by the step without the
check. The host's time inside of the checks needs no pairs: it is divided by the time of the steps.

On a CPU, times are the processor's times of the thread. On a GPU, each step is waited for, and a full-size model with
random weights runs.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from time import perf_counter, thread_time
from typing import Any

import sgd
from sgd.graph.contract.events import CallInfo, LoopInfo, Observer
from sgd.graph.contract.node import Run
from sgd.graph.contract.text_tables import columns
from sgd.nodes.library.standard_library import StandardLibrary
from sgd.nodes.support.finite import FiniteCheck
from sgd.nodes.support.unchanged_inputs import UnchangedInputs

WORKFLOWS = {
    "cpu": ("quickstart", {"prompt": "a small red circle", "steps": 40, "cache": 0}, {}),
    "cuda": ("flux_dev", {"prompt": "a lighthouse in a storm", "steps": 28, "cache": 0}, {"weights": "dummy"}),
}
BUDGET = 0.005


class Switched(FiniteCheck):
    """The check, at every other step; it counts the seconds that it takes."""

    on = True
    seconds = 0.0

    def node_started(self, call: CallInfo, arguments: Mapping[str, Any]) -> None:
        if Switched.on:
            began = thread_time()
            super().node_started(call, arguments)
            Switched.seconds += thread_time() - began

    def node_finished(self, call: CallInfo, seconds: float, outputs: Mapping[str, Any]) -> None:
        if Switched.on:
            began = thread_time()
            super().node_finished(call, seconds, outputs)
            Switched.seconds += thread_time() - began

    def turn_finished(self, loop: LoopInfo, index: int, seconds: float) -> None:
        if Switched.on:
            began = thread_time()
            super().turn_finished(loop, index, seconds)
            Switched.seconds += thread_time() - began


class Timed(UnchangedInputs):
    """The check of inputs in place, which is always on; it counts the seconds that it takes."""

    seconds = 0.0

    def node_started(self, call: CallInfo, arguments: Mapping[str, Any]) -> None:
        began = thread_time()
        super().node_started(call, arguments)
        Timed.seconds += thread_time() - began

    def node_finished(self, call: CallInfo, seconds: float, outputs: Mapping[str, Any]) -> None:
        began = thread_time()
        super().node_finished(call, seconds, outputs)
        Timed.seconds += thread_time() - began


class Steps(Observer):
    """Switches the check at the start of each step, and measures the step.

    The order within a pair alternates: on, off, off, on, … The first pair, which warms up, does not count.
    """

    def __init__(self, device: str) -> None:
        self.device = device
        self.pairs: list[dict[bool, float]] = []
        self.began = (0.0, 0.0)
        self.inside: dict[str, float] = {"finite": 0.0, "unchanged": 0.0}
        self.before = (0.0, 0.0)

    def wait(self) -> None:
        if self.device == "cuda":
            import torch

            torch.cuda.synchronize()

    def turn_started(self, loop: LoopInfo, index: int, variables: Mapping[str, Any]) -> None:
        Switched.on = (index % 4) in (0, 3)
        self.wait()
        self.before = (Switched.seconds, Timed.seconds)
        self.began = (perf_counter(), thread_time())

    def turn_finished(self, loop: LoopInfo, index: int, seconds: float) -> None:
        self.wait()
        # The processor's time leaves out other processes, and a GPU.
        taken = perf_counter() - self.began[0] if self.device == "cuda" else thread_time() - self.began[1]
        if index < 2:
            return
        if index % 2 == 0:
            self.pairs.append({})
        self.pairs[-1][Switched.on] = taken
        self.inside["finite"] += Switched.seconds - self.before[0]
        self.inside["unchanged"] += Timed.seconds - self.before[1]

    def loop_finished(self, loop: LoopInfo) -> None:
        Switched.on = True


def checks(_: StandardLibrary, run: Run) -> Sequence[Observer]:
    """The checks of a run, in place of the standard library's own."""
    return [Timed(run), Switched(run, lambda call: call.type.effect or call.type.name == "vae.decode")]


def interval(differences: Sequence[float]) -> tuple[float, float]:
    """The middle 95 % of the medians of 2000 samples with replacement."""
    draw = random.Random(0)
    medians = sorted(statistics.median(draw.choices(differences, k=len(differences))) for _ in range(2000))
    return medians[50], medians[-51]


def measure(device: str, workflow: str, inputs: Mapping[str, Any], options: Mapping[str, Any], runs: int) -> Steps:
    """Run a workflow several times, and measure the steps of its loop."""
    plan, steps = sgd.compile(workflow, inputs=inputs), Steps(device)
    original = StandardLibrary.value_checks
    StandardLibrary.value_checks = checks  # type: ignore[assignment, method-assign]
    try:
        for _ in range(runs):
            with tempfile.TemporaryDirectory() as folder:
                done = sgd.run(
                    plan, out=Path(folder), device=device, options=options, observers=[steps], overwrite=True
                )
            assert done.status == "done", done.error
    finally:
        StandardLibrary.value_checks = original  # type: ignore[method-assign]
    return steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=WORKFLOWS, default="cpu")
    parser.add_argument("--workflow", help="a workflow file, or the name of a bundled one")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="an input of the workflow")
    parser.add_argument("--runs", type=int, default=5)
    given = parser.parse_args()
    workflow, inputs, options = WORKFLOWS[given.device]
    if given.workflow:
        workflow, inputs = given.workflow, {}
    inputs = {**inputs, **dict(pair.split("=", 1) for pair in given.set)}
    steps = measure(given.device, workflow, inputs, {**options, "device": given.device}, given.runs)
    pairs = [pair for pair in steps.pairs if len(pair) == 2]
    plain = statistics.median(pair[False] for pair in pairs)
    differences = [(pair[True] - pair[False]) / plain for pair in pairs]
    low, high = interval(differences)
    total = sum(sum(pair.values()) for pair in pairs)
    share = 2 * steps.inside["finite"] / total  # it was on at half of the steps
    rows = [
        ["", "measured", "budget"],
        [f"{workflow} on {given.device}, a step without the check", f"{plain * 1e3:.2f} ms", ""],
        [f"with the check, median of {len(pairs)} pairs", f"{statistics.median(differences):+.2%}", f"{BUDGET:.2%}"],
        ["    middle 95 % of that median", f"{low:+.2%} to {high:+.2%}", ""],
        ["host time inside of the check of finite numbers", f"{share:.3%}", f"{BUDGET:.2%}"],
        ["host time inside of the check of inputs", f"{steps.inside['unchanged'] / total:.3%}", ""],
    ]
    print("\n".join(columns(rows, right=(1, 2))))


if __name__ == "__main__":
    main()
