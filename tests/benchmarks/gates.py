"""Cache gates on the small model that comes with sgd: `python tests/benchmarks/gates.py [--rounds N] [--steps 20 50]`.

With `--shared`, only the settings that the cache-dit package has too, for more rounds in the same time.

One table per number of steps. In a round all gates make the same clip, one after the other in a random order, so that
whatever else the machine does meets all of them; times are of the denoise loop, in seconds of the processor on one
thread, and ratios are taken within a round. PSNR and SSIM are of the decoded frames against those without a gate. The
prompts are combinations that no training clip had; `as asked` is the share of colour, shape, motion and background that
a reader, which does not know the prompt, finds in the clip. `blocks` are those that ran.
The same settings run with the cache-dit package: as `cache.library`, and on diffusers' pipeline.
"""

from __future__ import annotations

import argparse
import logging
import random
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median, quantiles
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[2] / "training"))

import cache_dit
import torch
from adherence import ATTRIBUTES, read
from clips import HELD_OUT, caption
from diffusers import WanPipeline
from evaluate import choose
from helpers import oracle_cache_dit as oracle
from helpers.direct import BOTH, DirectRun, model_of, sample
from sgd.graph.contract.node import Here
from sgd.graph.contract.workflow_folders import bundled_workflows
from sgd.nodes import cfg, latents, metrics, schedule, text, vae
from sgd.nodes.cache.gate import Gate
from sgd.nodes.cache.methods.cache_dit_options import library
from sgd.nodes.cache.methods.dbcache import dbcache
from sgd.nodes.cache.methods.easycache import easycache
from sgd.nodes.cache.methods.fora import fora
from sgd.nodes.cache.methods.magcache import magcache
from sgd.nodes.cache.methods.scm import scm
from sgd.nodes.cache.methods.taylorseer import taylorseer
from sgd.nodes.cache.methods.teacache import teacache
from sgd.nodes.values import Frames, Latents

FOLDER = bundled_workflows() / "models" / "tiny-wan"
SIZE, SCALE, LENGTH, HERE = {"width": 96, "height": 96, "frames": 17}, 4.0, 32, Here("gate")
COMBOS = choose(16, HELD_OUT)
MEASURED = ("a large green triangle moving left on a white background", "a red square growing on a black background")
"""The prompts that MagCache's ratios are measured on."""

FRONT = {"threshold": 0.15, "warmup_steps": 8, "max_consecutive": 3, "front_blocks": 1}
THEIRS = {
    "Fn_compute_blocks": 1,
    "residual_diff_threshold": 0.15,
    "max_warmup_steps": 8,
    "max_continuous_cached_steps": 3,
}


def ours(ratios: Sequence[float]) -> dict[str, Gate | None]:
    """The gates that are compared, by what the table calls them."""
    return {
        "none": None,
        "dbcache 0.15": dbcache(HERE, **FRONT),
        "taylorseer 1": taylorseer(HERE, order=1, **FRONT),
        "taylorseer 2": taylorseer(HERE, order=2, **FRONT),
        "taylorseer 1, warm-up 4": taylorseer(HERE, order=1, **FRONT | {"warmup_steps": 4}),
        "scm medium": scm(HERE, preset="medium"),
        "scm fast, order 1": scm(HERE, preset="fast", order=1),
        "teacache, P(x) = x": teacache(HERE, signal="time", coefficients=[1.0, 0.0], threshold=0.1),
        "magcache, measured": magcache(HERE, threshold=0.06, max_consecutive=3, ratios=list(ratios)),
        "easycache 0.05": easycache(HERE, threshold=0.05),
        "fora 2": fora(HERE, every=2),
        "fora 3": fora(HERE, every=3),
    }


def theirs(steps: int) -> dict[str, tuple[dict[str, Any], Any, Any]]:
    """The same settings for cache-dit: options of `cache.library`, a configuration, and a calibrator."""

    def masked(policy: str) -> tuple[dict[str, Any], Any]:
        mask = cache_dit.steps_mask(total_steps=steps, mask_policy=policy)
        static = {"Fn_compute_blocks": 1, "steps_computation_policy": "static"}
        return {**static, "mask_policy": policy}, cache_dit.DBCacheConfig(**static, steps_computation_mask=mask)

    made = cache_dit.DBCacheConfig(**THEIRS)
    medium, fast = masked("medium"), masked("fast")
    expanded = {"enable_taylorseer": True}
    return {
        "dbcache 0.15": (THEIRS, made, None),
        "taylorseer 1": ({**THEIRS, **expanded}, made, oracle.taylor(1)),
        "taylorseer 2": ({**THEIRS, **expanded, "taylorseer_order": 2}, made, oracle.taylor(2)),
        "scm medium": (*medium, None),
        "scm fast, order 1": ({**fast[0], **expanded}, fast[1], oracle.taylor(1)),
    }


@dataclass
class Made:
    """One clip: its latents, the processor's seconds of the loop, and the computed steps of both branches."""

    latents: torch.Tensor
    seconds: float
    computed: tuple[int, ...]
    state: Latents | None = None
    blocks: int = 0


@dataclass
class Row:
    """The results of a gate in all rounds."""

    seconds: list[float] = field(default_factory=list)
    ratios: list[float] = field(default_factory=list)
    computed: list[float] = field(default_factory=list)
    psnr: list[float] = field(default_factory=list)
    ssim: list[float] = field(default_factory=list)
    blocks: list[float] = field(default_factory=list)
    adherence: list[float] = field(default_factory=list)


@dataclass
class Twin:
    """One setting made by sgd, by `cache.library`, and by cache-dit on diffusers' pipeline."""

    computed: list[tuple[tuple[int, ...], ...]] = field(default_factory=list)
    library: list[float] = field(default_factory=list)
    pipeline: list[float] = field(default_factory=list)
    difference: float = 0.0


class Clips:
    """Makes clips with the embedded model, here and with diffusers' pipeline on the same modules."""

    def __init__(self) -> None:
        self.model = model_of(FOLDER)
        parts = {part: self.model.component(part) for part in self.model.parts() if part != "scheduler"}
        self.pipeline = WanPipeline(**parts, scheduler=WanPipeline.from_pretrained(FOLDER).scheduler)
        self.pipeline.set_progress_bar_config(disable=True)
        self.calls = 0
        for block in self.model.component("transformer").blocks:
            block.register_forward_hook(self._count)

    def _count(self, *_: Any) -> None:
        self.calls += 1

    def make(self, prompt: str, seed: int, steps: int, gate: Gate | None) -> Made:
        told = DirectRun()
        conditioning = text.encode(told, BOTH, self.model, [prompt], negative=[""], max_length=LENGTH)
        start = latents.noise(self.model, **SIZE, seed=[seed])
        plan, branches = schedule.make(self.model, steps=steps), cfg.split(conditioning, scale=SCALE)
        before, began = self.calls, time.process_time()
        states = sample(self.model, plan, start, branches, gate=gate, run=told)
        seconds = time.process_time() - began
        totals = [data["computed"] for kind, data in told.events if kind == "gate_total"]
        return Made(states[-1].tensor, seconds, tuple(totals) or (steps, steps), states[-1], self.calls - before)

    def piped(self, prompt: str, seed: int, steps: int, config: Any, calibrator: Any) -> Made:
        """The same with diffusers' pipeline and cache-dit; timed from the first forward to the last step's end."""
        config = cache_dit.DBCacheConfig(**{**config.as_dict(), "enable_separate_cfg": True})
        with oracle.enabled(self.pipeline, config, calibrator):
            made, seconds = self._piped(prompt, seed, steps)
            ((_, context),) = oracle.contexts(self.pipeline)
            computed = tuple(steps - len(cached) for cached in (context.cached_steps, context.cfg_cached_steps))
        return Made(made, seconds, computed)

    def _piped(self, prompt: str, seed: int, steps: int) -> tuple[torch.Tensor, float]:
        times: list[float] = []

        def stamp(*_: Any) -> dict[str, Any]:
            times.append(time.process_time())
            return {}

        def begin(*_: Any) -> None:
            if not times:
                stamp()

        handle = self.pipeline.transformer.register_forward_pre_hook(begin)
        size = {("num_frames" if name == "frames" else name): value for name, value in SIZE.items()}
        try:
            made = self.pipeline(
                prompt=[prompt],
                negative_prompt=[""],
                num_inference_steps=steps,
                guidance_scale=SCALE,
                max_sequence_length=LENGTH,
                generator=torch.Generator("cpu").manual_seed(seed),
                output_type="latent",
                callback_on_step_end=stamp,
                **size,
            ).frames
        finally:
            handle.remove()
        return made, times[-1] - times[0]

    def decode(self, made: Made) -> Frames:
        assert made.state is not None, "what sgd made is decoded"
        return vae.decode(self.model, made.state)

    def ratios(self, steps: int) -> list[float]:
        """MagCache's table of the model (2506.09045): mean over tokens of ‖residual_t‖ / ‖residual_{t-1}‖."""
        tables = []
        for prompt in MEASURED:
            norms: list[torch.Tensor] = []
            given: list[torch.Tensor] = []
            blocks = self.model.component("transformer").blocks
            handles = [
                blocks[0].register_forward_pre_hook(lambda _, args, given=given: given.append(args[0])),
                blocks[-1].register_forward_hook(
                    lambda _, args, made, given=given, norms=norms: norms.append((made - given[-1]).norm(dim=-1))
                ),
            ]
            try:
                self.make(prompt, 0, steps, None)
            finally:
                for handle in handles:
                    handle.remove()
            positive = norms[::2]  # the branches take turns
            pairs = zip(positive[1:], positive, strict=False)
            tables.append([1.0, *((now / before).mean().item() for now, before in pairs)])
        return [sum(entries) / len(entries) for entries in zip(*tables, strict=True)]


def measure(clips: Clips, steps: int, rounds: int, shared: bool) -> tuple[dict[str, Row], dict[str, Twin]]:
    """Every gate's rows, and those of the settings that cache-dit has too."""
    gates, twins = ours(clips.ratios(steps)), theirs(steps)
    if shared:
        gates = {name: gate for name, gate in gates.items() if name == "none" or name in twins}
    rows, pairs = {name: Row() for name in gates}, {name: Twin() for name in twins}
    order = random.Random(0)
    for number in range(rounds):
        combo = COMBOS[number % len(COMBOS)]
        prompt = caption(*combo)
        work: dict[tuple[str, str], Callable[[], Made]] = {}
        for name, gate in gates.items():
            work["sgd", name] = lambda gate=gate: clips.make(prompt, number, steps, gate)  # type: ignore[misc]  # noqa: B023
        for name, (options, config, calibrator) in twins.items():
            handed = library(HERE, **options)
            work["library", name] = lambda handed=handed: clips.make(prompt, number, steps, handed)  # type: ignore[misc]  # noqa: B023
            work["pipeline", name] = lambda c=config, k=calibrator: clips.piped(prompt, number, steps, c, k)  # type: ignore[misc]  # noqa: B023
        names = list(work)
        order.shuffle(names)
        made = {name: work[name]() for name in names}
        plain = made["sgd", "none"]
        reference = clips.decode(plain)
        for name, row in rows.items():
            one = made["sgd", name]
            row.seconds.append(one.seconds)
            row.ratios.append(one.seconds / plain.seconds)
            row.computed.append(sum(one.computed) / len(one.computed))
            row.blocks.append(one.blocks / plain.blocks)
            frames = clips.decode(one)
            shown = read(frames.tensor[0]).matches(**dict(zip(ATTRIBUTES, combo, strict=True)))
            row.adherence.append(sum(shown.values()) / len(shown))
            found = metrics.compare(DirectRun(), frames, reference)
            row.psnr.append(float("inf") if found.psnr is None else found.psnr)
            row.ssim.append(found.ssim)
        for name, pair in pairs.items():
            each = [made[side, name] for side in ("sgd", "library", "pipeline")]
            pair.computed.append(tuple(one.computed for one in each))
            pair.library.append(each[0].seconds / each[1].seconds)
            pair.pipeline.append(each[0].seconds / each[2].seconds)
            largest = each[2].latents.abs().max()
            gaps = [((each[0].latents - one.latents).abs().max() / largest).item() for one in each[1:]]
            pair.difference = max(pair.difference, *gaps)
        print(f"{steps} steps, round {number + 1} of {rounds}", file=sys.stderr)
    return rows, pairs


def spread(ratios: Sequence[float]) -> str:
    """The median, and the range of the middle half."""
    if len(ratios) < 2:
        return f"{ratios[0]:.3f}"
    low, _, high = quantiles(ratios, n=4)
    return f"{median(ratios):.3f} ({low:.3f} to {high:.3f})"


def lines(steps: int, rows: dict[str, Row], pairs: dict[str, Twin]) -> Iterator[str]:
    """The tables, in Markdown."""
    heads = ("computed", "blocks", "loop, s", "of ungated", "PSNR, dB (worst)", "SSIM (worst)", "as asked")
    yield f"| {steps} steps | {' | '.join(heads)} |"
    yield "| --- " * (len(heads) + 1) + "|"
    for name, row in rows.items():
        likeness = (
            "| | "
            if name == "none"
            else (f"| {median(row.psnr):.1f} ({min(row.psnr):.1f}) | {median(row.ssim):.3f} ({min(row.ssim):.3f}) ")
        )
        asked = sum(row.adherence) / len(row.adherence)
        yield (
            f"| {name} | {median(row.computed):g} | {median(row.blocks):.0%} | {median(row.seconds):.2f} | "
            f"{median(row.ratios):.2f} {likeness}| {asked:.0%} |"
        )
    yield ""
    beside = ("same steps computed", "latents differ by", "sgd / `cache.library`", "sgd / cache-dit, diffusers")
    yield f"| {steps} steps | {' | '.join(beside)} |"
    yield "| --- | --- | --- | --- | --- |"
    for name, pair in pairs.items():
        same = sum(len(set(each)) == 1 for each in pair.computed)
        yield (
            f"| {name} | {same} of {len(pair.computed)} clips | {pair.difference:.1e} | "
            f"{spread(pair.library)} | {spread(pair.pipeline)} |"
        )
    yield ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=len(COMBOS))
    parser.add_argument("--steps", type=int, nargs="+", default=[20, 50])
    parser.add_argument("--shared", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    for name in list(logging.root.manager.loggerDict):
        if name.startswith("cache_dit"):
            logging.getLogger(name).setLevel(logging.ERROR)
    with torch.no_grad():
        clips = Clips()
        clips.make(MEASURED[0], 0, 8, None)  # what happens once happens here
        for steps in given.steps:
            print("\n".join(lines(steps, *measure(clips, steps, given.rounds, given.shared))), flush=True)


if __name__ == "__main__":
    main()
