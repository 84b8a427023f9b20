"""The cost of a cache gate that reuses nothing: `python tests/benchmarks/gate_overhead.py`.

A small random Wan model is called with gates that always compute, and without one, in turns; each time is the least of
many, since other work on the machine only ever adds. Calls have one clip, and two that decide alike. The exchange of
blocks for a stack is timed by itself.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from helpers import tiny
from helpers.direct import BOTH, DirectRun, model_of
from sgd.graph.contract.node import Here
from sgd.nodes import cfg, denoiser, latents, schedule, text
from sgd.nodes.cache.engine.engine import exchanged
from sgd.nodes.cache.methods.cache_dit_options import library
from sgd.nodes.cache.methods.dbcache import dbcache
from sgd.nodes.cache.methods.fora import fora
from sgd.nodes.cache.methods.taylorseer import taylorseer
from sgd.nodes.cache.state import GateState

STEPS, REPEATS, HERE = 20, 60, Here("gate")
FRONT = {"warmup_steps": 1, "threshold": 1e-9, "front_blocks": 1}
GATES = {
    "none": None,
    "`cache.fora`, every step (known ahead, nothing kept)": fora(HERE, every=1),
    "`cache.dbcache`, a threshold of 0 (known ahead, residuals kept)": dbcache(HERE, **FRONT | {"threshold": 0}),
    "`cache.dbcache`, a threshold of 1e-9 (measures, residuals kept)": dbcache(HERE, **FRONT),
    "`cache.taylorseer`, order 2, the same": taylorseer(HERE, order=2, **FRONT),
    "`cache.library`, the same as dbcache": library(
        HERE, Fn_compute_blocks=1, max_warmup_steps=1, residual_diff_threshold=1e-9
    ),
}


class Transformer:
    """Has children and can be called, as a transformer; does nothing."""

    def __init__(self) -> None:
        self._modules: dict[str, Any] = {"blocks": torch.nn.ModuleList(), "other": torch.nn.Identity()}

    def __call__(self) -> None: ...


def swap(count: int = 2_000) -> float:
    """Seconds to exchange one list of blocks and put it back."""
    transformer, stand_ins = Transformer(), {"blocks": torch.nn.ModuleList()}

    def plain() -> None:
        for _ in range(count):
            transformer()

    def gated() -> None:
        for _ in range(count):
            exchanged(transformer, stand_ins)

    return (best(gated, 200) - best(plain, 200)) / count


def best(work: Callable[[], object], repeats: int) -> float:
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return min(times)


def calls(batch: int) -> dict[str, float]:
    """Seconds of one call of the transformer with so many clips through `denoiser.predict`, by gate."""
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        model = model_of(tiny.save("wan", Path(folder) / "model", layers=8))
        conditioning = text.encode(DirectRun(), BOTH, model, ["a"], max_length=16)
        start = latents.noise(model, width=32, height=32, frames=9, seed=[0] * batch, batch=batch)
        plan, branches = schedule.make(model, steps=STEPS), cfg.split(conditioning, scale=1.0)
        least = dict.fromkeys(GATES, float("inf"))
        for _ in range(REPEATS):
            for name, gate in GATES.items():
                state, run, took = GateState(), DirectRun(), []
                for step in plan:
                    began = time.perf_counter()
                    denoiser.predict(model, start, step, branches, state, run, gate=gate)
                    took.append(time.perf_counter() - began)
                state.end()
                # Engines are made at the first step, and at the second there is a residual for the first time.
                least[name] = min(least[name], *took[2:])
    return least


def main() -> None:
    torch.set_num_threads(1)
    one, two = calls(1), calls(2)
    print("| gate that computes everything | a call, ms | over none, µs | two clips, ms | over none, µs |")
    print("| --- | --- | --- | --- | --- |")
    for name in GATES:
        cells = []
        for found in (one, two):
            over = "" if name == "none" else f"{(found[name] - found['none']) * 1e6:.0f}"
            cells += [f"{found[name] * 1e3:.2f}", over]
        print(f"| {name} | {' | '.join(cells)} |")
    print(f"\nexchanging the blocks for a stack and back: {swap() * 1e9:.0f} ns")


if __name__ == "__main__":
    main()
