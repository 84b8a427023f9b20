"""Fidelity beside time, of precisions and gates, with the small model that comes with sgd.

    python tests/benchmarks/fidelity.py [--rounds 2] [--steps 20] [--weights FILE]

Each way makes the same clips. The first way, diffusers' path in float32, is the reference of PSNR and SSIM, which are
of decoded frames; every way decodes in float32 with the same VAE. In a round the ways take turns. Seconds are of the
denoise loop: of the processor on a CPU, of the clock on a GPU. Gates run at their defaults, in float32. On a CPU,
blocks are rebuilt through the torch twins, and fp8 is multiplied as floats: these rows show errors and no gain. A gate
that needs numbers of a calibration, and has none, is `unavailable`. So is LPIPS without `--weights`, the weights of its
network (`metrics.compare`).
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from helpers.direct import BOTH, DirectRun, sample
from sgd.graph.contract.errors import NodeError
from sgd.graph.contract.node import Here
from sgd.graph.contract.workflow_folders import bundled_workflows
from sgd.nodes import cfg, latents, metrics, schedule, text, vae
from sgd.nodes.cache.gate import Gate
from sgd.nodes.cache.methods import dbcache, easycache, fora, magcache, scm, taylorseer, teacache
from sgd.nodes.models.model import Model
from sgd.nodes.models.nodes.model_load import load
from sgd.nodes.models.transforms.optimize_transform import Optimize
from sgd.nodes.models.transforms.quantize_transform import Quantize
from sgd.nodes.values import Frames

FOLDER = bundled_workflows() / "models" / "tiny-wan"
SIZE, SCALE, LENGTH, HERE = {"width": 96, "height": 96, "frames": 17}, 4.0, 32, Here("gate")
PROMPTS = (
    "a large red circle moving right on a blue background",
    "a small green triangle growing on a white background",
)

GATES: dict[str, Callable[[], Gate]] = {
    "cache.dbcache": lambda: dbcache.dbcache(HERE),
    "cache.taylorseer": lambda: taylorseer.taylorseer(HERE),
    "cache.scm": lambda: scm.scm(HERE),
    "cache.teacache": lambda: teacache.teacache(HERE),
    "cache.magcache": lambda: magcache.magcache(HERE),
    "cache.easycache": lambda: easycache.easycache(HERE),
    "cache.fora": lambda: fora.fora(HERE),
}


@dataclass
class Way:
    """One way to make the clips, and its results.

    Attributes:
        model: The model with its transforms.
        gate: Makes the gate; None for no gate.
        unavailable: The reason why the way cannot run; empty if it can.
    """

    model: Model
    gate: Callable[[], Gate] | None = None
    unavailable: str = ""
    seconds: list[float] = field(default_factory=list)
    psnr: list[float] = field(default_factory=list)
    ssim: list[float] = field(default_factory=list)
    lpips: list[float] = field(default_factory=list)


def ways(device: str) -> dict[str, Way]:
    run = DirectRun()
    run.device = device
    full, half = (load(run, str(FOLDER), dtype=dtype) for dtype in ("float32", "bfloat16"))
    rebuilt = Optimize("transformer", True, ())
    found = {
        "eager, float32": Way(full),
        "eager, bfloat16": Way(half),
        "exact, float32": Way(full.transformed(rebuilt)),
        "exact, bfloat16": Way(half.transformed(rebuilt)),
        "fast (fp8), bfloat16": Way(half.transformed(Quantize("transformer", "fp8")).transformed(rebuilt)),
        "int8, bfloat16": Way(half.transformed(Quantize("transformer", "int8")).transformed(rebuilt)),
        **{name: Way(full, gate) for name, gate in GATES.items()},
    }
    for way in found.values():
        for part in way.model.parts():
            way.model.acquire(part, run)
    return found


def clip(way: Way, decoder: Model, prompt: str, seed: int, steps: int) -> tuple[float, Frames]:
    """Seconds of the loop, and the frames."""
    run, model = DirectRun(), way.model
    conditioning = text.encode(run, BOTH, model, [prompt], negative=[""], max_length=LENGTH)
    start = latents.noise(model, **SIZE, seed=[seed])
    plan, branches = schedule.make(model, steps=steps), cfg.split(conditioning, scale=SCALE)
    gate, on_gpu = None if way.gate is None else way.gate(), model.device.startswith("cuda")
    clock = time.perf_counter if on_gpu else time.process_time
    began = clock()
    made = sample(model, plan, start, branches, gate=gate, run=run)[-1]
    if on_gpu:
        torch.cuda.synchronize()
    seconds = clock() - began
    if not torch.isfinite(made.tensor).all():
        raise AssertionError("latents are not finite")
    return seconds, vae.decode(decoder, made)


def measure(found: dict[str, Way], rounds: int, steps: int, weights: Path | None) -> str:
    """Make and compare the clips. Returns the reason why LPIPS is unavailable; empty if it is not."""
    reference, run = next(iter(found.values())).model, DirectRun()
    for number in range(rounds):
        wanted: Frames | None = None
        for name, way in found.items():
            if way.unavailable:
                continue
            try:
                seconds, frames = clip(way, reference, PROMPTS[number % len(PROMPTS)], number, steps)
            except NodeError as problem:
                way.unavailable = str(problem)
                continue
            wanted = wanted or frames
            compared = metrics.compare(run, frames, wanted, weights=weights)
            way.seconds.append(seconds)
            way.ssim.append(compared.ssim)
            way.lpips += [] if compared.lpips is None else [compared.lpips]
            way.psnr.append(float("inf") if compared.psnr is None else compared.psnr)
            print(f"round {number}: {name}: {seconds:.2f} s, {way.psnr[-1]:.1f} dB", file=sys.stderr, flush=True)
    return "no weights are named" if weights is None else next(iter(run.warnings), "")


def table(found: dict[str, Way], no_lpips: str) -> Iterator[str]:
    yield "| way | seconds of the loop | PSNR, least, dB | SSIM, least | LPIPS, most |"
    yield "| --- | --- | --- | --- | --- |"
    for name, way in found.items():
        if way.unavailable:
            yield f"| {name} | unavailable: {way.unavailable} | | | |"
            continue
        least = min(way.psnr)
        shown = "equal" if least == float("inf") else f"{least:.1f}"
        distance = f"{max(way.lpips):.4f}" if way.lpips else "unavailable"
        yield f"| {name} | {statistics.median(way.seconds):.2f} | {shown} | {min(way.ssim):.4f} | {distance} |"
    if no_lpips:
        yield f"\nLPIPS is unavailable: {no_lpips}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--weights", type=Path, help="weights of the network of LPIPS, such as AlexNet's")
    arguments = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with torch.inference_mode():
        found = ways(device)
        no_lpips = measure(found, arguments.rounds, arguments.steps, arguments.weights)
    for line in table(found, no_lpips):
        print(line)


if __name__ == "__main__":
    main()
