"""`cache.none` and `cache.fora`: no gate, and every n-th step."""

from __future__ import annotations

from functools import partial
from typing import Any

from ....graph.contract.node import Here, node
from ..gate import Gate, Limits, Mask
from .parameters import Count, Order, Positive, checked, described, made


def _describe(**known: Any) -> dict[str, Any]:
    return {"gate": Gate("none")}


@node("cache.none", version=2, describe=_describe)
def none(here: Here) -> Gate:
    """A gate that computes every block at every step: the same as no gate, for a file where gates are exchanged.

    Returns:
        The description of the gate.
    """
    return Gate("none", here)


def _fora(*, every: int, order: int, front_blocks: int, back_blocks: int, warmup_steps: int) -> Gate:
    return Gate(
        "fora",
        mask=Mask(every=every, policy="static"),
        order=order,
        front=front_blocks,
        back=back_blocks,
        limits=Limits(warmup_steps=warmup_steps),
    )


@node("cache.fora", describe=partial(described, _fora), check=partial(checked, _fora, "every"))
def fora(
    here: Here,
    *,
    every: Positive = 2,
    order: Order = 0,
    front_blocks: Count = 0,
    back_blocks: Count = 0,
    warmup_steps: Count = 0,
) -> Gate:
    """Compute every n-th step and reuse in between (the interval of FORA, 2407.01425).

    What is reused is what the whole stack of blocks adds. FORA itself reuses the outputs of each attention and MLP,
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
    values = {name: value for name, value in locals().items() if name != "here"}
    return made(_fora, here, values)
