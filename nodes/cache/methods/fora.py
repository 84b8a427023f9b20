"""`cache.fora`: every n-th step is computed."""

from __future__ import annotations

from ..gate import Gate, Limits, Mask
from .gate_node import gate_node
from .parameters import Count, Order, Positive


@gate_node("cache.fora")
def fora(
    *,
    every: Positive = 2,
    order: Order = 0,
    front_blocks: Count = 0,
    back_blocks: Count = 0,
    warmup_steps: Count = 0,
) -> Gate:
    """Compute every n-th step and reuse the steps between (the interval of FORA, 2407.01425).

    The residual of the whole stack of blocks is reused. FORA itself reuses the output of each attention and MLP. It
    computes the same steps and needs more memory.

    Args:
        every: The interval; 1 computes every step.
        order: Order of the Taylor expansion that replaces the residual, as in `cache.taylorseer`; 0 is no expansion.
        front_blocks: Number of first blocks that always run.
        back_blocks: Number of last blocks that always run.
        warmup_steps: Number of first steps that are computed.

    Returns:
        The description of the gate.

    Raises:
        NodeError: If the parameters conflict.
    """
    return Gate(
        "fora",
        mask=Mask(every=every, policy="static"),
        order=order,
        front=front_blocks,
        back=back_blocks,
        limits=Limits(warmup_steps=warmup_steps),
    )
