"""The processes of a planned run: one process traces one rank after the other, and nothing is sent."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, TypeVar

from ....graph.contract.processes import Axis, Group, Mesh, Processes
from ...support import cost_meter
from .sent_values import SentValue, cannot_send, packed, unpacked

if TYPE_CHECKING:
    import torch

T = TypeVar("T")


class TracedRanks:
    """The ranks of a plan; a `PlannedRanks`.

    Args:
        mesh: How the processes are arranged.
    """

    def __init__(self, mesh: Mesh) -> None:
        self.mesh = mesh
        self.sent: list[tuple[SentValue, list[torch.Tensor | None]]] = []
        """The values that rank 0 sent or received, without the numbers of tensors on the meta device."""

    def processes(self, rank: int) -> Processes:
        return _TracedRank(self, rank)


class _TracedRank(Processes):
    """One rank. It receives the values of the trace of rank 0, since all ranks exchange values in the same order."""

    def __init__(self, ranks: TracedRanks, rank: int) -> None:
        self.rank, self.mesh, self._ranks, self._next = rank, ranks.mesh, ranks, 0

    def group(self, axis: Axis) -> Group:
        ranks = self.mesh.ranks(axis, self.rank)
        return Group(ranks, ranks.index(self.rank))

    def agree(self, value: T) -> T:
        return self.broadcast(value)

    def broadcast(self, value: T, source: int = 0) -> T:
        import torch

        known = self._ranks.sent
        if self.rank == 0:
            try:
                sent, numbers = packed(value)
            except Exception as error:
                raise cannot_send(value, f"{type(error).__name__}: {error}") from error
            known.append((sent, [None if each.is_meta else each.clone() for each in numbers]))
        if self._next >= len(known):
            raise RuntimeError(f"rank {self.rank} exchanges more values than rank 0")
        sent, kept = known[self._next]
        self._next += 1
        sizes = [prod(form.shape) * form.dtype.itemsize for form in sent.forms]
        if self.rank == source:
            cost_meter.sends(sum(sizes))
        if self.rank in (0, source):
            return value
        made = [
            torch.empty(size, dtype=torch.uint8, device="meta") if each is None else each
            for size, each in zip(sizes, kept, strict=True)
        ]
        found: T = unpacked(sent, made)
        return found
