"""The roles of ranks in a plan. Ranks that do the same work have one role, and one rank of it is traced."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from ...contract.processes import Mesh

MOST_TRACED = 8
"""The most processes for which each rank is traced. In more, ranks that differ by a token, row or head share a role."""


@dataclass(frozen=True)
class Role:
    """Ranks that do the same work.

    Attributes:
        ranks: Their numbers. The first is traced; it has the most tokens and rows.
        branch: The branch that they compute, from 0; None if they compute all.
    """

    ranks: tuple[int, ...]
    branch: int | None


@dataclass(frozen=True)
class LoopBytes:
    """Bytes that a rank sends in a loop: the number of turns, and the bytes of one, on average."""

    turns: int
    sent_bytes: int


@dataclass(frozen=True)
class RoleCosts:
    """Operations, memory and sent bytes of each rank of a role.

    Attributes:
        ranks: The ranks, in order.
        branch: See `Role`.
        flops: Floating-point operations of the run.
        peak_bytes: The most memory.
        sent_bytes: Bytes that it sends to other ranks in the run.
        steps: Of these, the bytes of each loop whose turns send something.
    """

    ranks: tuple[int, ...]
    branch: int | None
    flops: int
    peak_bytes: int
    sent_bytes: int
    steps: dict[str, LoopBytes]

    def equals(self, other: RoleCosts) -> bool:
        """Whether another role costs the same."""
        return replace(self, ranks=()) == replace(other, ranks=())


def roles_of(mesh: Mesh) -> tuple[Role, ...]:
    """The roles of a mesh: rank 0, which also runs nodes that run once; the rest of its branch; the other branch."""
    found = []
    for branch in range(mesh.branches):
        ranks = tuple(range(branch * mesh.sequence, (branch + 1) * mesh.sequence))
        parts = [ranks[:1], ranks[1:]] if branch == 0 else [ranks]
        if mesh.size <= MOST_TRACED:
            parts = [(rank,) for rank in ranks]
        found += [Role(part, branch if mesh.branches > 1 else None) for part in parts if part]
    return tuple(found)


def without_repeats(costs: Iterable[RoleCosts]) -> list[RoleCosts]:
    """The costs after joining neighbouring roles with equal costs."""
    found: list[RoleCosts] = []
    for each in costs:
        if found and found[-1].equals(each):
            found[-1] = replace(each, ranks=found[-1].ranks + each.ranks)
        else:
            found.append(each)
    return found
