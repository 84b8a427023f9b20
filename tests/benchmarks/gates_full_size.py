"""Gates on full-size transformers with random weights, on a GPU, beside the cache-dit package.

    python tests/benchmarks/gates_full_size.py [--model flux|hunyuan|wan] [--steps N] [--out FILE]

Decisions mean nothing with random weights, so they are fixed: the same static mask for both. Loops are unguided and
take turns, after one of each that does not count. Times are those of whole loops, with one wait for the GPU at the end.
The rows `exact` and `cache-dit, compiled` have the same attention. `speed.py` has these two in its table.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from benchmarks.machine import require_near, state, this_machine, waited
from benchmarks.speed_results import Measured, Way
from benchmarks.step_works import WORKS, Step, step_of
from benchmarks.steps import BOUNDS, StepRun, ways
from helpers.direct import sample
from sgd.graph.contract.node import Here
from sgd.nodes import cfg, schedule
from sgd.nodes.cache.masks import preset_mask
from sgd.nodes.cache.methods.scm import scm
from sgd.nodes.models.model import Model

STEPS = {"flux": 28, "hunyuan": 12, "wan": 12}


class Loops:
    """Loops of one model with the same decisions.

    Args:
        step: The model, its start and its prompts.
        steps: Number of steps.
    """

    def __init__(self, step: Step, steps: int) -> None:
        self.step, self.mask = step, preset_mask("fast", steps)
        self.plan = schedule.make(step.model, steps=steps, latents=step.start)
        given = step.branches
        self.branches = cfg.split(given.conditioning, scale=step.model.family.neutral_scale, embedded=given.embedded)

    def ours(self, model: Model, gate: Any = None) -> Callable[[], torch.Tensor]:
        """A loop of sgd, which gives the last latents."""
        return lambda: sample(model, self.plan, self.step.start, self.branches, gate=gate)[-1].tensor

    def scm(self, model: Model, *, apart: bool = False) -> Callable[[], torch.Tensor]:
        """A loop with `cache.scm`. `apart`: decide for each list of blocks, as cache-dit does."""
        separate = apart and len(model.family.blocks.lists) > 1
        stacks: Literal["separate", "together"] = "separate" if separate else "together"
        return self.ours(model, scm(Here("gate"), mask=self.mask, front_blocks=1, stacks=stacks))

    def cache_dit(self, model: Model) -> Callable[[], torch.Tensor]:
        """A loop in which the cache-dit package reuses blocks of the transformer."""
        os.environ.setdefault("CACHE_DIT_LOG_LEVEL", "error")
        import cache_dit
        from cache_dit import BlockAdapter, DBCacheConfig, ForwardPattern

        patterns = {
            "flux": ForwardPattern.Pattern_1,
            "hunyuan-video": ForwardPattern.Pattern_0,
            "wan": ForwardPattern.Pattern_2,
        }
        transformer = model.component("transformer")
        # The package exchanges `forward` for a function of its own; attention and compiled blocks are chosen by now.
        vars(transformer).pop("forward", None)
        lists = [getattr(transformer, attribute) for attribute in model.family.blocks.lists]
        pattern = patterns[model.family.name]
        kind: Any = lists if len(lists) > 1 else lists[0]
        forms: Any = [pattern] * len(lists) if len(lists) > 1 else pattern
        plain = self.ours(model)

        def loop() -> torch.Tensor:
            config = DBCacheConfig(
                Fn_compute_blocks=1,
                steps_computation_mask=[int(digit) for digit in self.mask],
                steps_computation_policy="static",
                num_inference_steps=len(self.mask),
                max_warmup_steps=1,
            )
            adapter = BlockAdapter(transformer=transformer, blocks=kind, forward_pattern=forms)
            cache_dit.enable_cache(adapter, cache_config=config)
            try:
                return plain()
            finally:
                cache_dit.disable_cache(adapter)

        return loop


@contextmanager
def loops_of(work: str, device: str, small: bool, steps: int) -> Iterator[tuple[Loops, dict[str, Model]]]:
    """The loops of a work, and its models in memory: `eager`, `exact` and, on a GPU, `diffusers`, compiled."""
    with step_of(WORKS[work], device, small) as step:
        models = {name: model for name, model in ways(step, device).items() if name != "fast"}
        run = StepRun(step, device)
        for model in models.values():
            model.acquire("transformer", run)
            step(model)  # the choice of attention, and compiling
        try:
            yield Loops(step, steps), models
        finally:
            for model in models.values():
                model.release("transformer")


def measure(
    work: str, found: Measured, *, device: str, small: bool, seconds: float, missed: Callable[[Measured], list[str]]
) -> None:
    """The row of `speed.py`: `exact` with `cache.scm`, and cache-dit around diffusers at its best.

    Args:
        work: Name in `STEPS`.
        found: Receives the results.
        device: `cuda` or `cpu`.
        small: Whether to take a tiny model.
        seconds: Not used: each way has three loops.
        missed: Not used: kernels are those of a step.
    """
    steps = 8 if small else STEPS[work]
    with loops_of(work, device, small, steps) as (loops, models):
        theirs = models.get("diffusers", models["eager"])
        made = {"diffusers": loops.cache_dit(theirs), "exact": loops.scm(models["exact"], apart=True)}
        values: dict[str, torch.Tensor] = {}
        for way, loop in made.items():
            first = waited(lambda loop=loop, way=way: values.update({way: loop()}), device)  # type: ignore[misc]
            # Small differences of a step grow over a loop.
            error = require_near(values[way], values["diffusers"], 4 * BOUNDS["exact"])
            found.ways[way] = Way(first=first, error=error)
        for _ in range(1 if small else 3):
            for way, loop in made.items():
                found.ways[way].seconds.append(waited(loop, device))
                found.ways[way].state = state() if device == "cuda" else ""
        computed = loops.mask.count("1")
        found.notes.append(f"{steps} steps, of which {computed} are computed; diffusers with the package cache-dit")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=STEPS, default="flux")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out")
    arguments = parser.parse_args()
    steps = arguments.steps or STEPS[arguments.model]
    with torch.no_grad(), loops_of(arguments.model, "cuda", False, steps) as (loops, models):
        eager = models["eager"]
        made = {
            "none": loops.ours(eager),
            "cache.scm": loops.scm(eager),
            "cache.scm, decided for each list": loops.scm(eager, apart=True),
            "cache-dit": loops.cache_dit(eager),
            "cache.scm, `exact`": loops.scm(models["exact"]),
            "cache-dit, compiled": loops.cache_dit(models["diffusers"]),
        }
        seconds: dict[str, list[float]] = {name: [] for name in made}
        for turn in range(arguments.repeats + 1):
            for name, loop in made.items():
                took = waited(loop, "cuda")
                if turn:
                    seconds[name].append(took)
    print(f"{arguments.model}, {steps} steps, mask {loops.mask}, {this_machine('cuda').text()}")
    plain = statistics.median(seconds["none"])
    for name, values in seconds.items():
        middle = statistics.median(values)
        print(f"| {name} | {middle:.3f} s | {plain / middle:.2f}x | {min(values):.3f} to {max(values):.3f} |")
    if arguments.out:
        Path(arguments.out).write_text(json.dumps({"mask": loops.mask, "seconds": seconds}, indent=1))


if __name__ == "__main__":
    main()
