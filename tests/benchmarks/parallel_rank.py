"""Steps and decodes of one clip on all ranks together, and on each alone, in turns; `parallel.py` starts it.

Random weights of full size, blocks rebuilt (`speed: exact`); with `--compiled` also diffusers' blocks, compiled. Each
way is called before it is timed. Its result must be finite. The result of all ranks is compared with that of one rank.

A timed step is a later step of a loop: each way keeps its state, with the values of prompts, from its first call to its
last. Kernels are launched one by one. `--graph` adds steps that are launched as one CUDA graph, even where this is
slower. Latents differ between the first calls, so that the compared result of a graph is that of new inputs.
"""

from __future__ import annotations

import argparse
import cProfile
import io
import json
import math
import os
import pstats
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
import torch.distributed as dist
from benchmarks import kernel_times
from benchmarks.machine import wait
from benchmarks.step_works import WORKS, step_of
from helpers.direct import DirectRun
from sgd.graph.contract.processes import read_mesh
from sgd.nodes import denoiser, vae
from sgd.nodes.cache.state import GateState
from sgd.nodes.models.attention.attention_target import Target
from sgd.nodes.models.model import Model
from sgd.nodes.models.ranks.joining import client
from sgd.nodes.models.ranks.torch_processes import TorchProcesses
from sgd.nodes.models.rebuilt import recorded_forward
from sgd.nodes.models.transforms.optimize_transform import FastDecoder, Optimize, no_fast_decoder
from sgd.nodes.values import Latents

TURNS = 3
REPEATS = 4
WARM = 4
"""Calls of a way before it is timed: the third is captured as a graph."""
LINK_MIB = (1, 28, 256)
BEGAN = time.time()


def timed(call: Callable[[], Any], device: str, repeats: int) -> tuple[float, float]:
    """Mean seconds of some calls in a row, as a loop makes them, and median seconds until the host returns."""
    dist.barrier()
    wait(device)
    began, host = time.perf_counter(), []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        host.append(time.perf_counter() - start)
    wait(device)
    return (time.perf_counter() - began) / repeats, statistics.median(host)


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a.double() - b.double()).norm() / b.double().norm())


def measure(calls: dict[str, Callable[[], torch.Tensor]], device: str, say: Callable[..., None]) -> dict[str, Any]:
    """Times and errors of ways to compute the same. The first way is one process."""
    rows: dict[str, Any] = {}
    wanted = None
    for way, call in calls.items():
        try:
            began = time.perf_counter()
            for _ in range(WARM - 1):
                call()
            made = call().float().cpu()
            wait(device)
            assert torch.isfinite(made).all(), "not finite"
            wanted = made if wanted is None else wanted
            rows[way] = {"first": time.perf_counter() - began, "error": relative(made, wanted), "seconds": []}
        except Exception as error:
            rows[way] = {"failed": f"{type(error).__name__}: {str(error)[:400]}"}
            say(way, rows[way])
            return rows
    for _ in range(TURNS):
        for way, call in calls.items():
            seconds, host = timed(call, device, REPEATS)
            rows[way]["seconds"].append(seconds)
            rows[way]["host"] = host
    for way, row in rows.items():
        say(way, {**row, "seconds": statistics.median(row["seconds"])})
    return rows


class Loop:
    """A way to compute a step: later steps of one loop, with its state.

    Args:
        step: The step.
        model: The model.
        processes: The processes; None for this one alone.
        graph: Whether its forward is recorded as a CUDA graph; if not, it never is.
    """

    def __init__(self, step: Any, model: Model, processes: TorchProcesses | None, graph: bool = False) -> None:
        self.step, self.model, self.graph = step, model, graph
        self.run, self.state, self.calls = DirectRun(), GateState(), 0
        self.run.device = step.model.device
        if processes is not None:
            self.run.processes = processes

    def __call__(self) -> torch.Tensor:
        recorded_forward.HOST_SHARE = 0.0 if self.graph else math.inf
        step, self.calls = self.step, min(self.calls + 1, WARM)
        start = replace(step.start, tensor=step.start.tensor * (1 + self.calls / 10))
        made = denoiser.predict(self.model, start, step.at, step.branches, self.state, self.run)
        return torch.cat([value.float() for value in made.branches.values()])


def steps(loops: dict[str, Loop], device: str, say: Callable[..., None]) -> dict[str, Any]:
    """`measure` of loops, which end then."""
    try:
        found = measure(dict(loops), device, say)
        for way, loop in loops.items():
            details = {key: str(value) for key, value in loop.run.details.items() if key.startswith("launch")}
            if way in found and details:
                found[way]["details"] = details
                say(way, details, *loop.run.warnings)
        return found
    finally:
        for loop in loops.values():
            loop.state.end()


def link(device: str) -> dict[str, float]:
    """GB/s at which a rank sends to one other rank, by the MiB of an exchange of all ranks."""
    found = {}
    for size in LINK_MIB:
        ranks = dist.get_world_size()
        sent = torch.zeros(ranks * size << 20, dtype=torch.uint8, device=device)
        received = torch.empty_like(sent)
        for number in range(2 + REPEATS):
            if number == 2:
                wait(device)
                began = time.perf_counter()
            dist.all_to_all_single(received, sent)
        wait(device)
        found[str(size)] = REPEATS * (size << 20) / (time.perf_counter() - began) / 1e9
    return found


def host_profile(call: Callable[[], Any], device: str, rows: int = 45) -> list[str]:
    """The functions in which the host spends a call."""
    wait(device)
    profile = cProfile.Profile()
    profile.runcall(call)
    wait(device)
    text = io.StringIO()
    pstats.Stats(profile, stream=text).sort_stats("tottime").print_stats(rows)
    return text.getvalue().splitlines()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", help=f"of {', '.join(WORKS)}")
    parser.add_argument("--parallel", default="ulysses=2", help="arrangements of all ranks, separated by semicolons")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tiny", action="store_true", help="tiny models on the CPU")
    parser.add_argument("--parts", default="step,decode")
    parser.add_argument("--host-profile", action="store_true")
    parser.add_argument(
        "--kernels", action="store_true", help="list the kernels of rank 0, with all ranks and with one"
    )
    parser.add_argument("--graph", action="store_true", help="also steps that are launched as one CUDA graph")
    parser.add_argument("--compiled", action="store_true", help="also steps of all ranks with compiled blocks")
    arguments = parser.parse_args()
    rank, device = int(os.environ["RANK"]), "cpu" if arguments.tiny else "cuda"
    if device == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    results: dict[str, Any] = {"ranks": int(os.environ["WORLD_SIZE"])}

    def say(*words: Any) -> None:
        if rank == 0:
            print(f"[{time.time() - BEGAN:4.0f}]", arguments.name, *words, flush=True)

    work = WORKS[arguments.name]
    with torch.inference_mode(), step_of(work, device, arguments.tiny) as step:
        config = step.model.config("transformer")
        kind = type(step.model.component("transformer")).__name__
        backends = Target("transformer", config, kind, "bfloat16", device).exact_backends()
        names = tuple(each.library for each in backends)
        model = step.model.transformed(Optimize("transformer", True, names))
        compiled = step.model.transformed(Optimize("transformer", False, names, compiled=True))
        if no_fast_decoder(step.model.weights.repository.entry("vae")[1], device, True) is None:
            model = model.transformed(FastDecoder("vae"))
        for number, arrangement in enumerate(arguments.parallel.split(";")):
            if number:
                dist.destroy_process_group()
            store = dist.PrefixStore(f"groups {number}", client())
            processes = TorchProcesses(store, rank, read_mesh(arrangement), device)
            if not number:
                results["link"] = link(device) if device == "cuda" else {}
                say("link, GB/s:", results["link"])
            alone, together = DirectRun(), DirectRun()
            alone.device = together.device = device
            together.processes = processes
            if "step" not in arguments.parts:
                continue
            model.acquire("transformer", together)
            say("step", arrangement)
            loops = {"one": Loop(step, model, None), arrangement: Loop(step, model, processes)}
            first, before = Loop(step, model, processes), processes.sent
            first()
            first.state.end()
            sent = processes.sent - before
            if arguments.graph:
                for way in list(loops):
                    loops[f"{way}, one graph"] = Loop(step, model, None if way == "one" else processes, True)
            results[f"step {arrangement}"] = {**steps(loops, device, say), "sent": sent}
            if arguments.host_profile:
                loops[arrangement]()  # its state is new: a step after the first
                results[f"host {arrangement}"] = host_profile(loops[arrangement], device)
                loops[arrangement].state.end()
            if arguments.kernels:
                for way in ("one", arrangement):
                    loops[way].state = GateState()
                    seconds = statistics.median(results[f"step {arrangement}"][way]["seconds"])
                    found = kernel_times.lines(kernel_times.kernels_of(loops[way]), seconds)
                    results[f"kernels {way}"] = found
                    say(way, *found[:14])
                    loops[way].state.end()
            if arguments.compiled:
                compiled.acquire("transformer", together)
                both = {"one": Loop(step, model, None), arrangement: Loop(step, compiled, processes)}
                results[f"step {arrangement}, compiled"] = steps(both, device, say)
                compiled.release("transformer")
            model.release("transformer")
        if "decode" in arguments.parts:
            model.acquire("vae", together)
            noise = torch.Generator(device).manual_seed(7)  # equal on all ranks
            tensor = torch.randn(step.start.tensor.shape, generator=noise, device=device)
            latents = Latents(tensor, step.start.family, step.start.size)
            say("decode", together.details)
            ways = {
                "one": lambda: vae.decode(model, latents, run=alone).tensor,
                "strips": lambda: vae.decode(model, latents, run=together).tensor,
            }
            results["decode"] = measure(ways, device, say)
            model.release("vae")
    results["details"] = {key: str(value) for key, value in together.details.items()}
    if device == "cuda":
        results["card"], results["peak"] = torch.cuda.get_device_name(), torch.cuda.max_memory_allocated()
    if rank == 0:
        arguments.out.write_text(json.dumps(results, indent=1))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
