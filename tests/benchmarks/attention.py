"""Attention backends on a GPU, checked and timed: `python tests/benchmarks/attention.py [--json FILE] [--only NAMES]`.

For the shapes of a HunyuanVideo clip and a FLUX image, in bfloat16, every backend that this machine can use is called
as the transformers call it, through diffusers' dispatch. Its result is compared with attention in float32, computed
here from the formula, for some of the queries over all keys; `sdpa` shows what bfloat16 alone costs. Times are of CUDA
events: the median of at least ten calls after a warm-up. TFLOP/s counts the two products, 4 · queries · keys · width
for each head.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from dataclasses import asdict
from datetime import date
from itertools import cycle
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from benchmarks.machine import calls, relative, this_machine
from sgd.nodes.models.attention import backend_table, backend_timing, backends

SHAPES = {
    # [batch, tokens, heads, width]; tokens of the image and of the prompt
    "HunyuanVideo 848x480, 65 frames": (1, 27030 + 56, 24, 128),
    "FLUX 1024x1024": (1, 4096 + 512, 24, 128),
}
SHORT = (1, 56, 24, 128)
"""A text alone: few keys, and not a multiple of any kernel's block."""
QUERIES = 256
SECONDS = 1.0


def exact(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Softmax attention from its formula in float32; [B, tokens, heads, width]."""
    query, key, value = (tensor.float().transpose(1, 2) for tensor in (query, key, value))
    return ((query @ key.transpose(2, 3) / query.shape[-1] ** 0.5).softmax(-1) @ value).transpose(1, 2)


def inputs(shape: tuple[int, ...], seed: int = 0) -> list[torch.Tensor]:
    """Queries, keys with a mean (as those of real models have), and values."""
    generator = torch.Generator("cuda").manual_seed(seed)
    query, key, value, mean = (torch.randn(shape, generator=generator, device="cuda") for _ in range(4))
    return [tensor.bfloat16() for tensor in (query, key + mean[:, :1], value)]


def error(backend: str, shape: tuple[int, ...]) -> float:
    """Relative error against float32, in the Euclidean norm, of the first and the last queries."""
    query, key, value = inputs(shape, seed=1)
    before = key.clone()
    result = backend_timing.attend(backend, query, key, value)
    if not torch.equal(key, before):
        raise RuntimeError("the keys were changed")
    if result.shape != query.shape or result.dtype != query.dtype:
        raise RuntimeError(f"shape {tuple(result.shape)} in {result.dtype}")
    half = min(QUERIES, shape[1]) // 2
    rows = [*range(half), *range(shape[1] - half, shape[1])]
    wanted = exact(query[:, rows], key, value)
    return relative(result[:, rows], wanted)


def milliseconds(backend: str, shape: tuple[int, ...]) -> tuple[float, float, int]:
    """Median and least time of a call, and how many were timed."""
    sets = cycle([inputs(shape, seed) for seed in range(2)])

    def call() -> None:
        backend_timing.attend(backend, *next(sets))

    [_, first], _ = calls(call, "cuda", 2)
    count = max(10, min(200, int(SECONDS / first)))
    times = [1e3 * took for took in calls(call, "cuda", count)[0]]
    return statistics.median(times), min(times), count


def rows(only: list[str]) -> list[dict[str, Any]]:
    found = []
    for name in backend_table.BACKENDS:
        backend = backends.chosen(name)
        if only and name not in only:
            continue
        reason = backends.machine_problem(backend)
        if reason is not None:
            found.append({"backend": name, "unavailable": reason.message})
            print(f"{name:9} {reason.message}", flush=True)
            continue
        for model, shape in {**SHAPES, "text": SHORT}.items():
            row: dict[str, Any] = {"backend": name, "about": backend.about, "model": model, "shape": shape}
            try:
                row["error"] = error(backend.library, shape)
                if model in SHAPES:
                    median, least, count = milliseconds(backend.library, shape)
                    flop = 4 * shape[0] * shape[1] ** 2 * shape[2] * shape[3]
                    row |= {"ms": median, "least_ms": least, "calls": count, "tflops": flop / median / 1e9}
            except Exception as failure:
                row["failed"] = f"{type(failure).__name__}: {str(failure)[:300]}"
            found.append(row)
            print(line(row), flush=True)
            torch.cuda.empty_cache()
    return found


def line(row: dict[str, Any]) -> str:
    head = f"{row['backend']:9} {row['model']:33}"
    if "failed" in row:
        return f"{head} {row['failed']}"
    text = f"{head} error {row['error']:.2e}"
    return f"{text}  {row['ms']:8.3f} ms  {row['tflops']:5.0f} TFLOP/s  ({row['calls']} calls)" if "ms" in row else text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", help="file to write the numbers to")
    parser.add_argument("--only", default="", help="names of backends, with commas")
    given = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("this needs an NVIDIA GPU and a torch that was built for CUDA")
    machine = this_machine("cuda")
    print(f"{date.today()}, {machine.text()}", flush=True)
    with torch.inference_mode():
        found = rows([name for name in given.only.split(",") if name])
    if given.json:
        with open(given.json, "w", encoding="utf-8") as file:
            json.dump({**asdict(machine), "rows": found}, file, indent=1)


if __name__ == "__main__":
    main()
