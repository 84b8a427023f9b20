"""Make the table of `quickstart_tuned`: `python tests/benchmarks/tune_quickstart.py FOLDER [--jobs N] [--seconds N]`.

`sgd tune` measures and chooses with 64 prompts of the distribution that the small model was taught, each with a seed of
its own; none is among the combinations that training never saw. The runs are those of `sgd tune`, made beforehand by N
processes of one thread each: every plan of a range is tried with every prompt, so that the table has them all. Then
`sgd tune` takes the finished runs, and writes FOLDER/quickstart_tuned.json.

The finished runs are kept where `sgd tune` looks for them, and the same command goes on after the last one. In the end
FOLDER/finished.json has them.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2] / "training"))

import torch
from clips import SIZES, TRAIN, caption
from sgd.graph.cli import main as command_line
from sgd.graph.cli.partial_run import CommandWorkflow
from sgd.graph.contract.workflow_folders import bundled_workflows
from sgd.graph.runtime.session import session
from sgd.nodes.cache.calibration.table import put_aside
from sgd.nodes.cache.tuning.find_plans import find_plans
from sgd.nodes.cache.tuning.finished_runs import FinishedRuns
from sgd.nodes.cache.tuning.linear_guidance import tuning
from sgd.nodes.cache.tuning.made_table import digest
from sgd.nodes.cache.tuning.step_plan import StepPlan
from sgd.nodes.cache.tuning.tune import Tuning
from sgd.nodes.cache.tuning.tuning_runs import PROBED, measurement, probes

PSNR = "38,46,50,55"
"""The choices of the input `psnr` of `quickstart_tuned`."""
TRIED = {50: range(11, 33), 20: range(7, 20)}
"""Numbers of computed steps of the plans that are tried."""

Task = tuple[str, int, str, Any]
"""`gram`, `gain` or `psnr`; the number of steps; the prompt; nothing, the step, or the plans."""


def prompts(count: int) -> list[str]:
    """Captions as the small model was taught, with its shares of sizes and gradients."""
    rng = random.Random(13)
    said = [(c, rng.choice([None, None, *SIZES]), rng.random() < 0.35) for c in rng.sample(TRAIN, count)]
    return [caption(*combo, size, gradient) for combo, size, gradient in said]


def workflow() -> str:
    """`quickstart` without its clip, which takes a package that is not everywhere."""
    text = (bundled_workflows() / "quickstart.yaml").read_text().replace("./", "sgd:")
    lines = [line for line in text.splitlines() if not line.startswith("  video:")]
    return "\n".join(lines).replace("{video: $video, sheet: $image}", "{sheet: $image}") + "\n"


def words(folder: Path, steps: int) -> list[str]:
    """The words of the `sgd tune` command."""
    table = ["--table", str(folder / "quickstart_tuned.json"), "--prompts", str(folder / "prompts.txt")]
    return ["tune", str(folder / "quickstart.yaml"), f"steps={steps}", "--psnr", PSNR, *table, "--device", "cpu"]


class Tunings:
    """The calls of `sgd tune`, one for each number of steps, that share a model."""

    def __init__(self, folder: Path, counts: Sequence[int]) -> None:
        torch.set_num_threads(1)
        parsed = {steps: command_line.parse(words(folder, steps)) for steps in counts}
        self.of = {steps: Tuning(found, CommandWorkflow(found)) for steps, found in parsed.items()}

    def do(self, task: Task) -> Any:
        kind, steps, prompt, more = task
        runs = self.of[steps].runs
        try:
            if kind == "gram":
                return runs.reference(prompt, steps, decode=False).gram()
            if kind == "gain":
                return runs.gain(prompt, more, steps)
            return {plan.mask: runs.fidelity(prompt, plan) for plan in more}
        finally:
            if kind != "gain":
                runs.references.clear()


@contextmanager
def tunings(folder: Path, counts: Sequence[int]) -> Iterator[Tunings]:
    with put_aside(), tuning(), session():
        yield Tunings(folder, counts)


_worker: dict[str, Tunings] = {}
_open = ExitStack()


def begin(folder: Path, counts: Sequence[int]) -> None:
    log = os.open(folder / "processes.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 2)
    _worker["here"] = _open.enter_context(tunings(folder, counts))


def work(task: Task) -> Any:
    return _worker["here"].do(task)


def warm_up() -> None:
    """Import packages and load the model: the work of a process's first run."""
    each = min(_worker["here"].of.items())[1]
    each.runs.run(each.measured[0], StepPlan(""), decode=True)


class Finished:
    """The finished runs of all calls, in the file that `sgd tune` reads."""

    def __init__(self, of: Tunings) -> None:
        self.tunings = of.of
        self.path = next(iter(self.tunings.values())).file_of_runs.path
        self.deltas: dict[int, tuple[list[float], list[float]]] = {}
        self.runs: dict[int, FinishedRuns] = {}
        for steps, each in self.tunings.items():
            first = each.runs.run(each.measured[0], StepPlan(""), decode=False)
            norms = [float(velocity.norm()) for velocity in first.velocities]
            self.runs[steps] = each.file_of_runs.of(FinishedRuns(each.key(first), norms))
            self.deltas[steps] = first.sigmas, first.deltas

    def took(self, task: Task, result: Any) -> None:
        kind, steps, prompt, more = task
        runs, key = self.runs[steps], digest(prompt)
        if kind == "gram":
            runs.grams[key] = result
        elif kind == "gain":
            runs.gains.setdefault(str(more), {})[key] = result
        else:
            for mask, psnr in result.items():
                runs.psnr.setdefault(mask, {})[key] = psnr
        self.path.write_text(json.dumps({"tunings": [asdict(each) for each in self.runs.values()]}))

    def to_measure(self) -> Iterator[Task]:
        for steps, runs in self.runs.items():
            measured = self.tunings[steps].measured
            for prompt in measured[:PROBED]:
                done = {step for step, found in runs.gains.items() if digest(prompt) in found}
                yield from (("gain", steps, prompt, step) for step in probes(steps) if str(step) not in done)
            yield from (("gram", steps, prompt, None) for prompt in measured if digest(prompt) not in runs.grams)

    def to_try(self, together: int) -> Iterator[Task]:
        for steps, runs in self.runs.items():
            found = find_plans(measurement(runs, *self.deltas[steps]))
            plans = [plan for count, plan in found.items() if count in TRIED[steps]]
            for prompt in self.tunings[steps].others:
                left = [plan for plan in plans if digest(prompt) not in runs.psnr.get(plan.mask, {})]
                for at in range(0, len(left), together):
                    yield "psnr", steps, prompt, left[at : at + together]


def run_all(
    pool: ProcessPoolExecutor, tasks: Sequence[Task], took: Callable[[Task, Any], None], ends: float | None
) -> bool:
    """Run tasks in the pool. Returns whether all are done."""
    futures: dict[Future[Any], Task] = {pool.submit(work, task): task for task in tasks}
    left, began = set(futures), time.monotonic()
    while left:
        if ends is not None and time.monotonic() > ends:
            return False
        done, left = wait(left, 1, FIRST_COMPLETED)
        for each in done:
            took(futures[each], each.result())
            told = f"{len(futures) - len(left)} of {len(futures)}, {time.monotonic() - began:.0f} s"
            print(f"{futures[each][0]}: {told}", file=sys.stderr, flush=True)
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--seconds", type=float, help="end after this time; the same command goes on")
    parser.add_argument("--prompts", type=int, default=64, metavar="N")
    parser.add_argument("--steps", type=int, nargs="+", default=list(TRIED), choices=list(TRIED))
    parser.add_argument("--together", type=int, default=12, metavar="N", help="plans that a process tries in a row")
    given = parser.parse_args()
    began = time.monotonic()
    given.folder.mkdir(parents=True, exist_ok=True)
    (given.folder / "quickstart.yaml").write_text(workflow())
    (given.folder / "prompts.txt").write_text("\n".join(prompts(given.prompts)))
    os.environ["OMP_NUM_THREADS"] = "1"
    ends = None if given.seconds is None else began + given.seconds
    pool = ProcessPoolExecutor(given.jobs, get_context("spawn"), begin, (given.folder, given.steps))
    for _ in range(given.jobs):
        pool.submit(warm_up)
    with tunings(given.folder, given.steps) as here:
        finished = Finished(here)
        done = run_all(pool, list(finished.to_measure()), finished.took, ends)
        done = done and run_all(pool, list(finished.to_try(given.together)), finished.took, ends)
    for process in list((pool._processes or {}).values()):
        process.kill()
    if not done:
        sys.exit("the time is over; the same command goes on")
    shutil.copy(finished.path, given.folder / "finished.json")
    for steps in given.steps:
        command_line.main(words(given.folder, steps))
    print(f"{time.monotonic() - began:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
