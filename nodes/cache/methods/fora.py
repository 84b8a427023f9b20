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
    """Compute every n-th step and reuse in between (the interval of FORA, 2407.01425).

    The residual of the whole stack of blocks is reused. FORA itself reuses the outputs of each attention and MLP,
    which takes more memory and the same schedule.

    Args:
        every: The interval: 1 computes everything.
        order: Order of the Taylor expansion that stands in for the residual, as in `cache.taylorseer`; 0 is none.
        front_blocks: First blocks that always run.
        back_blocks: Last blocks that always run.
        warmup_steps: First steps that are computed.

    Returns:
        The description of the gate.

    Raises:
        NodeError: If the parameters do not go together.
    """
    return Gate(
        "fora",
        mask=Mask(every=every, policy="static"),
        order=order,
        front=front_blocks,
        back=back_blocks,
        limits=Limits(warmup_steps=warmup_steps),
    )
