"""Whether a product in fp8 is faster than one in bfloat16 on a device, with the cost of quantising its input."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from time import perf_counter
from typing import Any

import torch
from torch.nn import functional as F

from ....graph.contract.process_state import exclusive
from ...support.device_memory import exhausted
from . import quantized_products
from .quantized_rows import quantized
from .rows import quantized as quantized_in_rows

ROWS = 4096
"""Rows to time if those of the run are not known: about as many as the tokens of an image of 1024 x 1024."""

MOST_ROWS = 32768
"""The most rows to time. More take more memory and time, and do not change the ratio."""

FEWEST_ROWS = 1024
"""More rows than these are halved if memory is short. With fewer rows, the time of a launch would decide."""

GAIN = 1.05
"""Least speed-up that counts."""

CALLS = 8


def pays(shape: tuple[int, int], rows: int, device: torch.device) -> bool:
    """Whether a weight is multiplied faster in fp8; False if the device has no such product.

    Fewer rows are timed if memory is short. The result is False if memory does not suffice for about `FEWEST_ROWS`.

    Args:
        shape: Outputs and inputs of the weight.
        rows: Rows of its input.
        device: The device.
    """
    count = min(rows, MOST_ROWS)
    while count > 0:
        try:
            return _pays(shape, count, device)
        except Exception as error:
            if not exhausted(error):
                raise
        count = count // 2 if count > FEWEST_ROWS else 0
    return False


@cache
def _pays(shape: tuple[int, int], rows: int, device: torch.device) -> bool:
    if quantized_products.scaled_kernel(device) is None:
        return False
    generator = torch.Generator(device).manual_seed(0)

    def normal(*size: int) -> torch.Tensor:
        return torch.randn(*size, generator=generator, device=device, dtype=torch.bfloat16)

    x, weight, bias = normal(rows, shape[1]), normal(*shape), normal(shape[0])
    small = quantized(weight, "fp8")
    scale = small.scales.flatten()
    with exclusive():  # a thread that compiles kernels would delay what is timed
        slow = _seconds(lambda: F.linear(x, weight, bias))
        fast = _seconds(lambda: quantized_products.product(quantized_in_rows(x, "fp8"), small.values, scale, bias))
    return slow >= GAIN * fast


def _seconds(call: Callable[[], Any]) -> float:
    """Seconds of a call on the GPU: the smallest average of three."""
    call()
    found = []
    for _ in range(3):
        torch.cuda.synchronize()
        began = perf_counter()
        for _ in range(CALLS):
            call()
        torch.cuda.synchronize()
        found.append((perf_counter() - began) / CALLS)
    return min(found)
