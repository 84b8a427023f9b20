"""Whether the row kernels work on a device: one of them is called on a few rows and compared with its twin.

One kernel stands for all: tests compile the kernels for several kinds of cards.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ...support.device_memory import exhausted
from . import row_twins, rows

ROWS = 4
TOLERANCE = 2.0**-5
"""Largest allowed difference, relative to the twin's largest value. Two bfloat16 roundings are 2^-7."""


def problem(device: str, dtype: torch.dtype, width: int) -> str | None:
    """The reason why the kernels cannot be used; None if they work. A plan, on the meta device, expects that they do.

    Args:
        device: The device of the run.
        dtype: Dtype of the rows.
        width: Their width.
    """
    if device == "meta":
        return None
    generator = torch.Generator().manual_seed(0)
    x, scale, shift = (torch.randn(1, count, width, generator=generator) for count in (ROWS, 1, 1))
    x, scale, shift = (tensor.to(device, dtype) for tensor in (x, scale, shift))

    def both() -> tuple[Tensor, Tensor]:
        found = rows.norm(x, scale, shift)
        twin = row_twins.norm(x, scale, shift, kind="layer", eps=1e-6, plus_one=True)
        assert isinstance(found, Tensor), "no format was given"
        assert isinstance(twin, Tensor), "no format was given"
        return found, twin

    return disagreement(both)


def gathered(dtype: torch.dtype, width: int) -> None:
    """Launch the kernel of the trial in a thread that gathers launches."""
    x, scale, shift = (torch.empty(1, count, width, dtype=dtype, device="meta") for count in (ROWS, 1, 1))
    rows.norm(x, scale, shift)


def disagreement(both: Callable[[], tuple[Tensor, Tensor]]) -> str | None:
    """The reason why a kernel cannot be used; None if its result is that of its twin.

    Triton needs a C compiler, a driver and a card that it knows. A lack of one shows at the first call only.

    Args:
        both: Calls the kernel and its twin, and gives their results.
    """
    try:
        found, wanted = (each.float() for each in both())
        agrees = bool((found - wanted).abs().max() <= TOLERANCE * wanted.abs().max())
    except Exception as error:
        if exhausted(error):
            raise
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        return f"the kernels do not run on this machine: {reason}"
    return None if agrees else "the kernels give wrong results on this machine"
