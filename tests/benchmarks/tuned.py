"""Tuned plans on prompts that nothing was measured on: `python tests/benchmarks/tuned.py RESULTS [--seconds N]`.

The plans are those of the table of `quickstart_tuned`. Sixteen prompts that no training clip had, with a seed each, are
neither measured nor chosen with in the table. In a round, the run without a gate and all plans make the same clip in a
random order. Times are of the denoise loop, in seconds of the processor on one thread, in which other processes hardly
count; the share is taken within a round. PSNR is that of the decoded frames against those without a gate.

RESULTS is a JSON file. It gets each round when it is done, and the same command goes on after the last one.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

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
from sgd.nodes.cache.tuning.tuned_table import KIND, read
from sgd.nodes.values import Frames

SIZE, SCALE, LENGTH = {"width": 96, "height": 96, "frames": 17}, 4.0, 32
TABLE = read(bundled_workflows() / "tables" / "quickstart_tuned.json")
PLANS = {50: (12, 13, 14, 18, 21, 24), 20: (8, 9, 12, 13, 15)}
"""Numbers of computed steps of the plans that are measured."""
GOALS = {50: ((55, 0.42), (50, 0.32), (46, 0.25)), 20: ((44, 0.42),)}
"""A median PSNR in dB, and the share of the loop's time that it may take."""


@dataclass(frozen=True)
class Round:
    """One clip with one plan. `seconds` is without a gate, `share` with the plan, as a share of it."""

    prompt: str
    steps: int
    computed: int
    seconds: float
    share: float
    psnr: float


def prompts() -> list[str]:
    found = [caption(*combo) for combo in choose(16, HELD_OUT)]
    seen = {digest for each in TABLE.schedules for digest in (*each.measured, *each.chosen)}
    assert not seen & {hashlib.sha256(each.encode()).hexdigest()[:16] for each in found}
    return found


def plans(steps: int) -> dict[int, StepPlan]:
    made = TABLE.schedule(steps)
    assert made is not None, "the table covers the steps"
    return {p.mask.count("1"): p.as_step_plan() for p in made.plans if p.mask.count("1") in PLANS[steps]}


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

    def round(self, prompt: str, number: int, steps: int) -> Iterator[Round]:
        order: list[tuple[int, StepPlan | None]] = [(steps, None), *plans(steps).items()]
        random.Random(number).shuffle(order)
        made = {computed: self.make(prompt, number, steps, plan) for computed, plan in order}
        seconds, reference = made.pop(steps)
        for computed, (own, frames) in sorted(made.items()):
            psnr = metrics.compare(DirectRun(), frames, reference).psnr
            yield Round(prompt, steps, computed, seconds, own / seconds, 100.0 if psnr is None else psnr)


def lines(rounds: list[Round], steps: int) -> Iterator[str]:
    """The table, in Markdown, and how near each goal came."""
    of = {n: [r for r in rounds if r.steps == steps and r.computed == n] for n in PLANS[steps]}
    rows = {n: found for n, found in of.items() if found}
    if not rows:
        return
    clips = max(map(len, rows.values()))
    yield f"| {steps} steps, {clips} clips | share of steps | share of time | median dB | worst dB |"
    yield "| --- | --- | --- | --- | --- |"
    middle = {n: (median(r.share for r in found), median(r.psnr for r in found)) for n, found in rows.items()}
    for n, found in rows.items():
        share, psnr = middle[n]
        yield f"| {n} computed | {n / steps:.2f} | {share:.3f} | {psnr:.1f} | {min(r.psnr for r in found):.1f} |"
    yield ""
    for wanted, most in GOALS[steps]:
        shares = [(share, n) for n, (share, psnr) in middle.items() if psnr >= wanted]
        if not shares:
            yield f"- {wanted} dB at {most:g}: no plan has this median"
            continue
        share, n = min(shares)
        yield f"- {wanted} dB at {most:g}: {'reached' if share <= most else 'not reached'}, {share:.3f} ({n} computed)"
    yield ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("--seconds", type=float, help="begin no further round after this time")
    parser.add_argument("--steps", type=int, nargs="+", default=list(PLANS), choices=list(PLANS))
    given = parser.parse_args()
    torch.set_num_threads(1)
    rounds = [Round(**each) for each in json.loads(given.results.read_text())] if given.results.exists() else []
    began, clips = time.monotonic(), Clips()
    with torch.inference_mode():
        clips.make("a large red circle", 0, 4, None)  # the work of a first call is done here
        for number, prompt in enumerate(prompts()):
            for steps in given.steps:
                if {(prompt, steps, n) for n in PLANS[steps]} <= {(r.prompt, r.steps, r.computed) for r in rounds}:
                    continue
                if given.seconds is not None and time.monotonic() - began > given.seconds:
                    continue
                rounds += clips.round(prompt, number, steps)
                given.results.write_text(json.dumps([asdict(each) for each in rounds], indent=1))
                print(f"round {number + 1}, {steps} steps: {rounds[-1].seconds:.2f} s", file=sys.stderr, flush=True)
    for steps in given.steps:
        print("\n".join(lines(rounds, steps)))


if __name__ == "__main__":
    main()
