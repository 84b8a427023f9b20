"""The choice whether both branches of guidance go through the transformer in one call. Torch-free."""

from __future__ import annotations

from ..graph.contract.errors import NodeError
from .cache.gate import Gate
from .families.base import Family
from .values import Branches


def batched(
    branches: Branches, family: Family, gate: Gate | None, *, rebuilt: bool, rows: int, divided: bool
) -> tuple[bool, str | None]:
    """Choose, and tell why.

    Args:
        branches: The branches; their `batched` is the request.
        family: The model's family.
        gate: The gate of the loop.
        rebuilt: Whether the transformer has rebuilt blocks.
        rows: Number of clips.
        divided: Whether each branch has processes of its own.

    Returns:
        The choice, and the reason if `auto` chose.

    Raises:
        NodeError: If one call for both is asked for, and the branches are divided.
    """
    if divided and branches.batched is True:
        help = "leave `batched` of cfg.split out, or `branches` of --parallel"
        raise NodeError("`batched: true` puts both branches into one call, and `branches=2` divides them", help=help)
    if divided:
        return False, None
    if branches.batched != "auto":
        return branches.batched, None
    if gate is not None and gate.kind == "library":
        return False, "cache-dit counts one branch a call"
    if not family.batches_guidance:
        return False, f"one call for both was not measured to be faster with {family.name}"
    if not rebuilt:
        return False, "the transformer's blocks are not rebuilt"
    if rows > 1:
        return False, f"{rows} clips fill a call without it"
    return True, "the weights for text are read once"
