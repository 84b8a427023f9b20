"""`cache.none`: no gate."""

from __future__ import annotations

from ..gate import Gate
from .gate_node import gate_node


@gate_node("cache.none", version=2)
def none() -> Gate:
    """A gate that computes every block at every step, as without a gate. Use it in a file where gates are exchanged.

    Returns:
        The description of the gate.
    """
    return Gate("none")
