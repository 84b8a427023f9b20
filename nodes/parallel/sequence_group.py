"""`SequenceGroup`: the processes that compute one sequence, and the parts of the tokens that each has.

Process r of p has the tokens r, r + p, r + 2 p, …: padding at the end of a row stays at the end of each part, whatever
its length. Attention asks for no order, since positions are in the tokens before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist

from ...graph.contract.processes import Processes
from ..models.ranks.collectives import GROUPS, gather_parts, members, parts_of, stacked


@dataclass(frozen=True)
class SequenceGroup:
    """The processes of one sequence, `ulysses × ring` of them; those of a ring are neighbours.

    Attributes:
        place: The number of this process among them.
        ulysses: Processes that exchange heads for tokens.
        ring: Processes that gather keys and values.
        whole: Name of the group of all.
        column: Name of the group of those that exchange heads.
        row: Name of the group of those that gather keys and values.
    """

    place: int
    ulysses: int
    ring: int
    whole: str
    column: str
    row: str

    @property
    def size(self) -> int:
        return self.ulysses * self.ring

    def own(self, count: int) -> int:
        """How many of the first `count` tokens are in the own part."""
        return parts_of(count, self.size)[self.place]

    def cut(self, tensor: torch.Tensor, dim: int) -> torch.Tensor:
        """The own part of the tokens in a dimension, dense."""
        index: list[slice] = [slice(None)] * tensor.ndim
        index[dim] = slice(self.place, None, self.size)
        return tensor[tuple(index)].contiguous()

    def gather(self, part: torch.Tensor, count: int) -> torch.Tensor:
        """The reverse of `cut` for the dimension 1: [B, own(count), ...] -> [B, count, ...]."""
        length = -(-count // self.size)
        parts = stacked(part.transpose(0, 1), length, self.whole)  # [size, length, B, ...]
        return parts.transpose(0, 1).flatten(0, 1)[:count].transpose(0, 1).contiguous()

    def relative_change(self, before: torch.Tensor, now: torch.Tensor) -> torch.Tensor:
        """`signals.relative_change` of the tokens of all parts.

        Each process sums in float64. A mean is rounded to the tensors' dtype, where one process rounds it.
        """
        if before.shape == now.shape:
            change = (before - now).abs().sum(dtype=torch.float64)
            sums = [change, before.abs().sum(dtype=torch.float64), change.new_tensor(float(before.numel()))]
        else:
            sums = [before.new_full((), value, dtype=torch.float64) for value in (float("inf"), 1.0, 1.0)]
        changed, held, count = self._summed(torch.stack(sums)).unbind()
        return (changed / count).to(before.dtype) / (held / count).to(before.dtype)

    def agreed(self, numbers: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Numbers, 0-dimensional, as the first process has them, so that all decide alike."""
        if not numbers:
            return []
        found = torch.stack(list(numbers)).double()
        sent = 0 if self.place else 8 * len(numbers) * (self.size - 1)
        GROUPS[self.whole].exchange(sent, dist.broadcast, found, group_src=0)
        return list(found.to(numbers[0].dtype).unbind())

    def _summed(self, numbers: torch.Tensor) -> torch.Tensor:
        GROUPS[self.whole].exchange(8 * numbers.numel() * (self.size - 1), dist.all_reduce, numbers)
        return numbers

    def keys_of_row(self, tensor: torch.Tensor, dim: int, tokens: Sequence[int]) -> torch.Tensor:
        """Tokens of all processes of the own column, then of all columns: the order of keys in attention.

        Args:
            tensor: Something of the own tokens, such as a mask.
            dim: The dimension of tokens, from 0.
            tokens: Tokens of each process of the sequence.
        """
        if self.ulysses > 1:
            own = tokens[self.place % self.ring :: self.ring]
            tensor = gather_parts(tensor, dim, own, self.place // self.ring, self.column)
        if self.ring > 1:
            tensor = gather_parts(tensor, dim, self.columns(tokens), self.place % self.ring, self.row)
        return tensor

    def columns(self, tokens: Sequence[int]) -> list[int]:
        """Tokens of each column, for the tokens of each process of the sequence."""
        return [sum(tokens[number :: self.ring]) for number in range(self.ring)]


def sequence_group(processes: Processes) -> SequenceGroup:
    """The processes that compute a sequence with this one."""
    mesh = processes.mesh
    place = processes.group("sequence").rank
    whole, column, row = (members(processes, axis) for axis in ("sequence", "ulysses", "ring"))
    return SequenceGroup(place, mesh.ulysses, mesh.ring, whole, column, row)
