"""Attention in fp8 by its parts: `python tests/benchmarks/attention_fp8.py [--json FILE] [--device cpu]`.

Queries, keys and values are views of one buffer, as in a rebuilt block of HunyuanVideo: 848x480, 65 frames, bfloat16.
The script first compares the parts around attention with their twins. It prints for each part the median of `REPEATS`
calls, and the time that its bytes need at `BYTES_A_SECOND`. Then it prints the time of whole calls in three ways: in
bfloat16, and in fp8 with measured scales and with scales of the norms. An error is the relative error of some queries
against float32.

The script takes less than 20 s. On a CPU, all sizes are small, the twins run, and times mean nothing.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from benchmarks.machine import calls, relative, require_near, this_machine
from sgd.nodes.models.attention import kernels
from sgd.nodes.models.attention.centred_e4m3 import centred_e4m3
from sgd.nodes.models.row_kernels import head_norms, head_twins, heads, rows
from sgd.nodes.models.row_kernels.head_norms import HeadNorms

SHAPES = {"cuda": (1, 27030 + 56, 24, 128), "cpu": (1, 60, 2, 64)}
"""[batch, tokens, heads, width]; tokens of the image and of the prompt."""
TEXT = {"cuda": 56, "cpu": 10}
BYTES_A_SECOND = 4.0e12
"""A round rate that copies of large tensors reach on an H200, whose memory has 4.8e12."""
REPEATS, LONG = 30, 12
"""Calls of a part, and of attention."""
QUERIES = 128
Call = Callable[[], Any]


Operands = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def inputs(device: str) -> tuple[Operands, HeadNorms]:
    """Queries and keys after their norms, and values with a common part; the norms."""
    batch, tokens, count, width = SHAPES[device]
    generator = torch.Generator(device).manual_seed(0)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, device=device)

    qkv = random(batch, tokens, 3, count, width).bfloat16()
    qkv[:, :, 2] += random(count, width).bfloat16()
    norms = HeadNorms(*((1 + 0.2 * random(2, width)).bfloat16() for _ in range(2)))
    angles = random(1, tokens - TEXT[device], width // 2)
    turn = angles.cos(), angles.sin()
    rows.query_key_(qkv, norms.query, norms.key, *turn, eps=1e-6, first=tokens - TEXT[device])
    query, key, value = qkv.unbind(2)
    return (query, key, value), norms


def parts(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, norms: HeadNorms) -> dict[str, tuple[Call, int]]:
    """The parts around attention, each with its bytes read and written. `measured` is left out with known norms."""
    one = query.numel()
    means, scales = heads.centre_and_scales(value)
    static = norms.e4m3_scales[0].expand(query.shape[0], query.shape[2])
    result = value.contiguous()
    check(query, value, static, means, scales)
    return {
        "measured: largest query and key": (lambda: [head_twins.largest(x) for x in (query, key)], 2 * 2 * one),
        "centre and scales of values": (lambda: heads.centre_and_scales(value), 2 * one),
        "queries to e4m3": (lambda: heads.quantized_heads(query, static, None), 3 * one),
        "values to e4m3, centred": (lambda: heads.quantized_heads(value, scales, means), 3 * one),
        "add the means": (lambda: heads.add_means_(result, means), 4 * one),
        "all operands, measured": (lambda: centred_e4m3(query, key, value), (2 + 1) * 3 * one + 2 * 3 * one),
        "all operands, of the norms": (lambda: centred_e4m3(query, key, value, norms), (2 + 1) * 3 * one + 2 * one),
    }


def check(query: torch.Tensor, value: torch.Tensor, static: torch.Tensor, means: torch.Tensor, scales: Any) -> None:
    """Compare the parts with their twins, on some tokens where the twins need much memory."""
    some = value[:, :512]
    wanted = head_twins.centre_and_scales(value)
    require_near(means, wanted[0], 1e-4)
    require_near(scales, wanted[1], 1e-4)
    require_near(heads.quantized_heads(some, scales, means).float(), twin(some, scales, means), 0.01)
    require_near(heads.quantized_heads(query[:, :512], static, None).float(), twin(query[:, :512], static, None), 0.01)
    added = heads.add_means_(some.contiguous(), means)
    require_near(added, some.float() + means[:, None], 0.01)
    largest = float(heads.quantized_heads(query, static, None).float().abs().max())
    if largest > 448 or largest < 40:
        raise AssertionError(f"the largest number is {largest}")


def twin(x: torch.Tensor, scales: torch.Tensor, means: torch.Tensor | None) -> torch.Tensor:
    return head_twins.quantized_heads(x, scales, means).float()


def exact(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    query, key, value = (tensor.float().transpose(1, 2) for tensor in (query, key, value))
    return ((query @ key.transpose(2, 3) / query.shape[-1] ** 0.5).softmax(-1) @ value).transpose(1, 2)


def wholes(given: Operands, norms: HeadNorms) -> dict[str, Call]:
    """Attention with all that is around it."""

    def known() -> torch.Tensor:
        with head_norms.knowing(norms):
            return kernels.flash_3_fp8(*given, None, False)

    return {
        "attention, bfloat16": lambda: kernels.flash_3(*given, None, False),
        "attention, fp8, measured": lambda: kernels.flash_3_fp8(*given, None, False),
        "attention, fp8, of the norms": known,
    }


def measured(device: str) -> list[dict[str, Any]]:
    given, norms = inputs(device)
    found = []
    for name, (call, count) in parts(*given, norms).items():
        median = statistics.median(calls(call, device, REPEATS)[0])
        found.append({"part": name, "ms": 1e3 * median, "floor_ms": 1e3 * count / BYTES_A_SECOND})
        print(f"{name:34} {1e3 * median:8.3f} ms, bytes alone {found[-1]['floor_ms']:.3f}", flush=True)
    if device == "cpu":
        return found
    some = slice(None, None, given[0].shape[1] // QUERIES)
    wanted = exact(given[0][:, some], *given[1:])
    for name, call in wholes(given, norms).items():
        error = relative(call()[:, some], wanted)
        median = statistics.median(calls(call, device, LONG)[0])
        found.append({"part": name, "ms": 1e3 * median, "error": error})
        print(f"{name:34} {1e3 * median:8.3f} ms, error {error:.2e}", flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", help="file to write the numbers to")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    given = parser.parse_args()
    if given.device == "cuda" and not torch.cuda.is_available():
        sys.exit("this needs an NVIDIA GPU and a torch that was built for CUDA; --device cpu tries the program")
    machine = this_machine(given.device)
    print(f"{date.today()}, {machine.text()}", flush=True)
    with torch.inference_mode():
        found = measured(given.device)
    if given.json:
        with open(given.json, "w", encoding="utf-8") as file:
            json.dump({**asdict(machine), "rows": found}, file, indent=1)


if __name__ == "__main__":
    main()
