"""Times attention backends on tensors of given shapes, those whose results agree with the first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING, Any

from ...support.device_memory import exhausted
from . import kernels

if TYPE_CHECKING:
    import torch

    from ..row_kernels.head_norms import HeadNorms

REPEATS = 3
CALLS = 4
"""Calls in one timing. As in a run, the CPU prepares the next call while the GPU still works."""
FP8_TOLERANCE = 2.0**-3
"""The same for a backend in fp8, whose numbers have three bits of mantissa."""
TOLERANCE = 2.0**-5
"""Largest allowed difference of an exact backend from SDPA, relative to SDPA's largest value. Two bfloat16 roundings
are 2^-7. A backend with a larger difference computes another function."""


@dataclass(frozen=True)
class Shapes:
    """The largest attention call of a forward pass: shapes of queries and keys, [B, tokens, heads, width].

    `masked` is true if any attention call of the pass had a mask. `norms` are those of the queries and keys, if the
    caller names them.
    """

    query: tuple[int, ...]
    key: tuple[int, ...]
    masked: bool
    dtype: torch.dtype
    device: torch.device
    norms: HeadNorms | None = None


def measure_all(tried: Sequence[str], shapes: Shapes, timings: dict[str, float | None], end: float) -> None:
    """Measure the backends that lack a timing, as long as the time until `end` is likely to suffice.

    Nothing is measured if memory does not suffice for a call of the first backend.
    """
    from ..row_kernels.head_norms import knowing

    with knowing(shapes.norms):
        try:
            _measure(tried, shapes, timings, end)
        except Exception as error:
            if not exhausted(error):
                raise


def _measure(tried: Sequence[str], shapes: Shapes, timings: dict[str, float | None], end: float) -> None:
    import torch

    whole = shapes.query[2]
    lacking = [backend for backend in tried if backend not in timings]
    generator = torch.Generator(shapes.device).manual_seed(0)
    one = _tensors(shapes, 1, generator)
    attend(tried[0], *one)
    single = _average(lambda: attend(tried[0], *one), shapes.device, 1)
    # Trials, agreement and the reference: about four calls for each backend.
    heads = max(1, min(whole, int((end - perf_counter()) / (4 * len(lacking)) / single)))
    query, keys, values = _tensors(shapes, heads, generator)
    reference = attend(tried[0], query, keys, values)
    for number, backend in enumerate(lacking):
        if perf_counter() + 2 * single * heads > end:
            return
        try:
            result = reference if backend == tried[0] else attend(backend, query, keys, values)
            agrees = bool((result - reference).abs().max() <= tolerance(backend) * reference.abs().max())
            share = (end - perf_counter()) / (len(lacking) - number)
            seconds = (
                measure(lambda b=backend: attend(b, query, keys, values), shapes.device, share) if agrees else None  # type: ignore[misc]
            )
            timings[backend] = None if seconds is None else seconds * whole / heads
        except Exception as error:
            if not exhausted(error):  # with less in memory it may work
                timings[backend] = None  # `auto` chooses among the backends that work; the reported timings list them


def _tensors(shapes: Shapes, heads: int, generator: torch.Generator) -> list[torch.Tensor]:
    """Random queries, keys and values of some heads. Norms of `shapes` bound the queries and keys."""
    import torch

    made = [
        torch.randn((*size[:2], heads, size[3]), generator=generator, dtype=shapes.dtype, device=shapes.device)
        for size in (shapes.query, shapes.key, shapes.key)
    ]
    if shapes.norms is not None:
        for number, weights in enumerate((shapes.norms.query, shapes.norms.key)):
            largest = weights.float().abs().amax().clamp_max(1.0)  # longer rows would sharpen the attention
            normed = torch.nn.functional.rms_norm(made[number], made[number].shape[-1:])
            made[number] = normed.mul_(largest.to(shapes.dtype))
    return made


def attend(backend: str, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Call one backend through diffusers' dispatch. All tensors are [B, tokens, heads, width]."""
    from diffusers.models.attention_dispatch import dispatch_attention_fn

    result = dispatch_attention_fn(query, key, value, backend=kernels.name(backend))
    return result[0] if isinstance(result, tuple) else result


def measure(call: Callable[[], Any], device: torch.device, most: float) -> float:
    """Measure the seconds for one call, of a function that was called before.

    A first call, waited for, tells how many calls fit into the time. Then each of at most `REPEATS` measurements
    averages at most `CALLS` calls. The result is the smallest average.

    Args:
        call: The function.
        device: The device that it uses.
        most: Seconds that measuring should take at most. The first call is made in any case.
    """
    best = _average(call, device, 1)
    fitting = int((most - best) / best)
    calls = max(min(fitting, CALLS), 1)
    for _ in range(min(fitting // calls, REPEATS)):
        best = min(best, _average(call, device, calls))
    return best


def _average(call: Callable[[], Any], device: torch.device, calls: int) -> float:
    """Seconds of a call, averaged over some that run one after the other."""
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)
    began = perf_counter()
    for _ in range(calls):
        call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return (perf_counter() - began) / calls


def tolerance(backend: str) -> float:
    """Largest allowed difference of a backend from SDPA, relative to SDPA's largest value."""
    return FP8_TOLERANCE if in_fp8(backend) else TOLERANCE


def in_fp8(backend: str) -> bool:
    """Whether a backend computes attention in fp8."""
    from .backends import named

    found = named(backend)
    return found is not None and found.precision == "fp8"


def takes_masks(backend: str) -> bool:
    from .backends import named

    found = named(backend)
    return found is None or found.masks == "applied"
