"""The kernels of one call on a GPU, by PyTorch's profiler, and the groups that a table sums them in."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import torch
from benchmarks.speed_results import Kernel

GROUPS = {
    "attention": r"flash|fmha|sdpa|attn|attention",
    "convolutions": r"conv|fprop|implicit_gemm|tap",
    "products": r"gemm|nvjet|cutlass|cublas|matmul|scaled_mm|gemv|splitk",
    "copies": r"memcpy|memset|copy|cat",
}
"""Groups of kernels, by a pattern of their names; the first that fits. All others are `rows`."""


def kernels_of(call: Callable[[], Any]) -> list[Kernel]:
    """The kernels of one call, after one that does not count; the longest first."""
    from torch.profiler import ProfilerActivity, profile

    call()
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA]) as made:
        call()
        torch.cuda.synchronize()
    found = [Kernel(e.key, e.count, e.self_device_time_total / 1e6) for e in made.key_averages()]
    return sorted((each for each in found if each.seconds > 0), key=lambda each: -each.seconds)


def group(name: str) -> str:
    """The group of a kernel."""
    return next((title for title, form in GROUPS.items() if re.search(form, name, re.IGNORECASE)), "rows")


def sums(kernels: Sequence[Kernel]) -> dict[str, float]:
    """Seconds of each group, the largest first."""
    found: dict[str, float] = {}
    for each in kernels:
        found[group(each.name)] = found.get(group(each.name), 0.0) + each.seconds
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def lines(kernels: Sequence[Kernel], seconds: float, most: int = 14) -> list[str]:
    """A table of the kernels in Markdown.

    Args:
        kernels: The kernels of one call.
        seconds: Seconds of a call without the profiler.
        most: The number of kernels with a line of their own.
    """
    whole = sum(each.seconds for each in kernels)
    groups = ", ".join(f"{title} {1e3 * part:.1f}" for title, part in sums(kernels).items())
    found = [f"Kernels {1e3 * whole:.1f} ms of {1e3 * seconds:.1f} ms: {groups} ms.", ""]
    found += ["| kernel | group | calls | ms | share |", "| --- | --- | --- | --- | --- |"]
    for each in kernels[:most]:
        name = " ".join(each.name.replace("|", " ").split())[:90]
        share = f"{100 * each.seconds / whole:.1f} %"
        found.append(f"| `{name}` | {group(each.name)} | {each.calls} | {1e3 * each.seconds:.2f} | {share} |")
    rest = kernels[most:]
    if rest:
        calls, took = sum(each.calls for each in rest), sum(each.seconds for each in rest)
        found.append(f"| {len(rest)} others | | {calls} | {1e3 * took:.2f} | {100 * took / whole:.1f} % |")
    return found
