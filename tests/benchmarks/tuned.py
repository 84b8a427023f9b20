"""Tuned plans on prompts that nothing was measured on: `python tests/benchmarks/tuned.py RESULTS [--jobs N]`.

The plans are all those of the table of `quickstart_tuned`. Sixteen prompts that no training clip had are neither
measured nor chosen with in the table; each has a seed. In a round, two runs without a gate and one of each plan make
the same clip in a random order. Times are of the denoise loop, in seconds of the processor on one thread; the share is
that of the mean of the two, within a round. PSNR is that of the decoded frames against those without a gate.

RESULTS is a JSON file. Each round is written when it is done, and the same command makes the missing ones.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from statistics import mean, median

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[2] / "training"))

import torch
from clips import HELD_OUT, caption
from evaluate import choose
from helpers.direct import BOTH, DirectRun, model_of, sample
from sgd.graph.contract.workflow_folders import bundled_workflows
from sgd.nodes import cfg, latents, metrics, schedule, text, vae
from sgd.nodes.cache.gate import Gate
from sgd.nodes.cache.tuning.planned_gate import with_plan
from sgd.nodes.cache.tuning.step_plan import StepPlan
from sgd.nodes.cache.tuning.tuned_table import KIND, TunedSchedule, TunedTable, read
from sgd.nodes.values import Frames

SIZE, SCALE, LENGTH = {"width": 96, "height": 96, "frames": 17}, 4.0, 32
CHOICES = (38, 46, 50, 55)
"""The values of the input `psnr` of `quickstart_tuned`."""
GOALS = {50: ((55, 0.42), (50, 0.32), (46, 0.25)), 20: ((44, 0.42),)}
"""A median PSNR in dB, and the share of the loop's time that it may take."""


@dataclass(frozen=True)
class Round:
    """One clip with one plan. `seconds` is without a gate, `share` with the plan, as a share of it."""

    prompt: str
    steps: int
    mask: str
    seconds: float
    share: float
    psnr: float

    @property
    def computed(self) -> int:
        return self.mask.count("1")


def prompts(table: TunedTable) -> list[str]:
    found = [caption(*combo) for combo in choose(16, HELD_OUT)]
    seen = {digest for each in table.schedules for digest in (*each.measured, *each.chosen)}
    assert not seen & {hashlib.sha256(each.encode()).hexdigest()[:16] for each in found}
    return found


def of(table: TunedTable, steps: int) -> TunedSchedule:
    found = table.schedule(steps)
    assert found is not None, "the table covers the steps"
    return found


class Clips:
    """Makes clips with the small model that comes with sgd."""

    def __init__(self) -> None:
        self.model = model_of(bundled_workflows() / "models" / "tiny-wan")

    def make(self, prompt: str, seed: int, steps: int, plan: StepPlan | None) -> tuple[float, Frames]:
        """Seconds of the processor in the loop, and the frames."""
        run = DirectRun()
        conditioning = text.encode(run, BOTH, self.model, [prompt], negative=[""], max_length=LENGTH)
        start = latents.noise(self.model, **SIZE, seed=[seed])
        made, branches = schedule.make(self.model, steps=steps), cfg.split(conditioning, scale=SCALE)
        gate = None if plan is None else with_plan(Gate(KIND, signal="model", name="gate"), plan)
        began = time.process_time()
        last = sample(self.model, made, start, branches, gate=gate, run=run)[-1]
        seconds = time.process_time() - began
        return seconds, vae.decode(self.model, last)


@cache
def clips() -> Clips:
    """The model of this process, after the work of a first call."""
    torch.set_num_threads(1)
    made = Clips()
    with torch.inference_mode():
        made.make("a large red circle", 0, 4, None)
    return made


def rounds_of(prompt: str, number: int, steps: int, plans: Sequence[StepPlan]) -> list[Round]:
    """A round with a prompt; its number is the seed."""
    order = [None, None, *plans]
    random.Random(number).shuffle(order)
    with torch.inference_mode():
        made = [(plan, *clips().make(prompt, number, steps, plan)) for plan in order]
    reference = next(frames for plan, _, frames in made if plan is None)
    whole = mean(seconds for plan, seconds, _ in made if plan is None)
    found = []
    for plan, seconds, frames in made:
        if plan is not None:
            psnr = metrics.compare(DirectRun(), frames, reference).psnr
            found.append(Round(prompt, steps, plan.mask, whole, seconds / whole, 100.0 if psnr is None else psnr))
    return found


def lines(rounds: Sequence[Round], schedule: TunedSchedule) -> Iterator[str]:
    """The table, in Markdown, how near each goal came, and whether the choices of `psnr` are kept."""
    steps = len(schedule.timesteps)
    rows = [(plan, [r for r in rounds if r.mask == plan.mask]) for plan in schedule.plans]
    rows = [(plan, found) for plan, found in rows if found]
    middle = [(median(r.share for r in found), median(r.psnr for r in found), plan) for plan, found in rows]
    chosen = {psnr: schedule.cheapest(psnr) for psnr in CHOICES}
    yield f"{steps} steps, {max((len(found) for _, found in rows), default=0)} clips"
    columns = ("steps", "computed", "`psnr`", "share of steps", "share of time", "median, dB", "worst, dB", "kept, dB")
    yield f"| {' | '.join(columns)} |"
    yield f"|{' --- |' * len(columns)}"
    for (share, psnr, plan), (_, found) in zip(middle, rows, strict=True):
        taken = ", ".join(str(wanted) for wanted, each in chosen.items() if each is plan)
        computed, worst = plan.mask.count("1"), min(r.psnr for r in found)
        numbers = f"{computed / steps:.2f} | {share:.3f} | {psnr:.1f} | {worst:.1f} | {plan.psnr.kept:.1f}"
        yield f"| {steps} | {computed} | {taken} | {numbers} |"
    yield ""
    for wanted, most in GOALS[steps]:
        able = [(share, plan.mask.count("1"), psnr) for share, psnr, plan in middle if psnr >= wanted]
        share, count, psnr = min(able, default=(1.0, steps, 100.0))
        answer = "reached" if share <= most else "not reached"
        yield f"- {wanted} dB at {most:g}: {answer}, {share:.3f} with {psnr:.1f} dB ({count} computed)"
    for wanted, each in chosen.items():
        kept = [r.psnr for r in rounds if each is not None and r.mask == each.mask]
        if kept:
            below = sum(psnr < wanted for psnr in kept)
            yield f"- psnr {wanted}: {below} of {len(kept)} clips below it, the worst has {min(kept):.1f} dB"
    yield ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--table", type=Path, default=bundled_workflows() / "tables" / "quickstart_tuned.json")
    parser.add_argument("--steps", type=int, nargs="+", default=list(GOALS), choices=list(GOALS))
    parser.add_argument("--prompts", type=int, default=16, metavar="N", help="the first N of the sixteen")
    given = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    table = read(given.table)
    rounds = [Round(**each) for each in json.loads(given.results.read_text())] if given.results.exists() else []
    done = {(r.prompt, r.mask) for r in rounds}
    with ProcessPoolExecutor(given.jobs, get_context("spawn")) as pool:
        futures = []
        for steps in given.steps:
            plans = [plan.as_step_plan() for plan in of(table, steps).plans]
            for number, prompt in enumerate(prompts(table)[: given.prompts]):
                if any((prompt, plan.mask) not in done for plan in plans):
                    rounds = [r for r in rounds if (r.prompt, r.steps) != (prompt, steps)]
                    futures.append(pool.submit(rounds_of, prompt, number, steps, plans))
        for each in as_completed(futures):
            rounds += each.result()
            given.results.write_text(json.dumps([asdict(r) for r in rounds], indent=1))
            print(f"{rounds[-1].steps} steps: {rounds[-1].seconds:.2f} s", file=sys.stderr, flush=True)
    for steps in given.steps:
        print("\n".join(lines(rounds, of(table, steps))))


if __name__ == "__main__":
    main()
