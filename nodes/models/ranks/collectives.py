"""Exchanges between processes, as torch operators with plain numbers beside their tensors.

torch.compile calls an operator and does not trace into it, so that compiled blocks keep one graph. Tensors travel as
bytes: every dtype works on every backend of torch.distributed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from math import prod
from time import perf_counter
from typing import Any

import torch
import torch.distributed as dist

from ....graph.contract.processes import Axis, Processes
from ...support import cost_meter

_all_gather: Callable[..., Any] = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
"""Its new name is that of later torches."""

Exchanges = list[tuple[Processes, int]]
"""Exchanges in their order: the run's processes, and the bytes that this one sends."""

_CAPTURED: ContextVar[Exchanges | None] = ContextVar("captured_exchanges", default=None)


@contextmanager
def capturing() -> Iterator[Exchanges]:
    """Exchanges inside `with` are part of a capture. Yields a list of them; no run is told about them."""
    found: Exchanges = []
    token = _CAPTURED.set(found)
    try:
        yield found
    finally:
        _CAPTURED.reset(token)


@dataclass(frozen=True)
class Members:
    """The processes that exchange with each other.

    Attributes:
        handle: torch's process group.
        size: Their number.
        processes: The run's processes, which are told about each exchange.
    """

    handle: Any
    size: int
    processes: Processes

    def exchange(self, sent: int, collective: Callable[..., Any], *arguments: Any, **named: Any) -> None:
        """Call a function of torch.distributed, which sends `sent` bytes of this process to others.

        A plan counts the bytes and sends nothing.
        """
        if cost_meter.sends(sent):
            return
        began = perf_counter()
        collective(*arguments, **named, group=self.handle)
        captured = _CAPTURED.get()
        if captured is not None:
            captured.append((self.processes, sent))
        else:
            self.processes.exchanged(sent, perf_counter() - began)


GROUPS: dict[str, Members] = {}
"""Processes by the name of their group: an operator takes no other values than numbers, words and tensors."""


def members(processes: Processes, axis: Axis) -> str:
    """The name in `GROUPS` of the processes along an axis of the mesh."""
    group = processes.group(axis)
    name = f"{axis} of {','.join(map(str, group.ranks))}"
    GROUPS[name] = Members(group.handle, group.size, processes)
    return name


def parts_of(count: int, ranks: int) -> tuple[int, ...]:
    """The lengths of the parts of `count` tokens or rows: as equal as they come, the longer ones first."""
    return tuple(count // ranks + (rank < count % ranks) for rank in range(ranks))


def bytes_of(tensor: torch.Tensor) -> torch.Tensor:
    """The bytes of a dense tensor, uint8 [n], in the same memory."""
    return tensor.reshape(-1).view(torch.uint8)


def first_number(processes: Processes, axis: Axis, number: int) -> int:
    """The number that the first process along an axis has, for choices that depend on time."""
    held = torch.tensor([number])
    GROUPS[members(processes, axis)].exchange(8, dist.broadcast, held, group_src=0)
    return int(held.item())


def largest(processes: Processes, axis: Axis, numbers: Sequence[int]) -> list[int]:
    """For each number, the largest that a process along an axis has. The host waits for all of them."""
    if processes.group(axis).size == 1:
        return list(numbers)
    held = torch.tensor(list(numbers))
    GROUPS[members(processes, axis)].exchange(0, dist.all_reduce, held, op=dist.ReduceOp.MAX)
    return [int(number) for number in held.tolist()]


@torch.library.custom_op(
    "sgd::gather_parts",
    mutates_args=(),
    schema="(Tensor part, int dim, int[] lengths, int rank, str group) -> Tensor",
)
def gather_parts(part: torch.Tensor, dim: int, lengths: Sequence[int], rank: int, group: str) -> torch.Tensor:
    """The parts of all processes along a dimension, one after the other.

    Args:
        part: The own part.
        dim: The dimension, from 0.
        lengths: Lengths of all parts.
        rank: The number of this process in the group.
        group: Name of the group.

    Returns:
        A new tensor, dense.
    """
    parts = stacked(part.movedim(dim, 0), max(lengths), group)
    whole = torch.cat([own[:length] for own, length in zip(parts, lengths, strict=True)])
    return whole.movedim(0, dim).contiguous()


@gather_parts.register_fake
def _(part: torch.Tensor, dim: int, lengths: Sequence[int], rank: int, group: str) -> torch.Tensor:
    return part.new_empty(*part.shape[:dim], sum(lengths), *part.shape[dim + 1 :])


def stacked(part: torch.Tensor, length: int, group: str) -> torch.Tensor:
    """The parts of all processes, [n, ...], filled up to one length: [processes, length, ...]."""
    if len(part) < length:
        part = torch.cat([part, part.new_zeros(length - len(part), *part.shape[1:])])
    part = part.contiguous()
    found = GROUPS[group]
    out = part.new_empty(found.size, *part.shape)
    sent = part.numel() * part.element_size() * (found.size - 1)
    found.exchange(sent, _all_gather, bytes_of(out), bytes_of(part))
    return out


def _gathered_bytes(part: torch.Tensor, dim: int, lengths: Sequence[int], rank: int, group: str) -> int:
    row = prod(size for place, size in enumerate(part.shape) if place != dim)
    return row * max(lengths) * part.element_size() * (len(lengths) - 1)


cost_meter.SENT[torch.ops.sgd.gather_parts] = _gathered_bytes
