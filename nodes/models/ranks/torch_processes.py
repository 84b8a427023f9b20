"""The processes of a run as groups of torch.distributed: gloo between CPUs, NCCL between GPUs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from math import prod
from time import perf_counter
from typing import TYPE_CHECKING, Any, TypeVar

from ....graph.contract.processes import Axis, Group, Mesh, Processes
from .sent_values import cannot_send, packed, unpacked

if TYPE_CHECKING:
    import torch

T = TypeVar("T")

AXES: tuple[Axis, ...] = ("branches", "ulysses", "ring", "sequence")
LONGEST = timedelta(hours=2)
"""The time-out of torch's collectives. A run that does not go on ends long before (graph/runtime/ranks)."""


class TorchProcesses(Processes):
    """The processes of a run.

    Args:
        store: A store of torch.distributed that all ranks reach.
        rank: The number of this process.
        mesh: How the processes are arranged.
        device: `cpu` or `cuda`, the device of this rank.

    Attributes:
        sent: Bytes that this rank has sent.
        waited: Seconds that its host has waited in exchanges.
        count: The number of exchanges that began or ended.
        waiting: Whether it is in one now.
    """

    def __init__(self, store: torch.distributed.Store, rank: int, mesh: Mesh, device: str) -> None:
        import torch.distributed as dist

        self.rank, self.mesh, self.device = rank, mesh, device
        self.sent, self.waited, self.count, self.waiting = 0, 0.0, 0, False
        backend = "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo"
        dist.init_process_group(backend, store=store, rank=rank, world_size=mesh.size, timeout=LONGEST)
        everyone = tuple(range(mesh.size))
        self._groups = {everyone: Group(everyone, rank, dist.group.WORLD)}
        for axis in AXES:  # every rank makes every group, in one order
            for ranks in dict.fromkeys(mesh.ranks(axis, each) for each in everyone):
                if len(ranks) > 1 and ranks not in self._groups:
                    handle = dist.new_group(list(ranks), timeout=LONGEST)
                    self._groups[ranks] = Group(ranks, ranks.index(rank) if rank in ranks else 0, handle)

    def group(self, axis: Axis) -> Group:
        ranks = self.mesh.ranks(axis, self.rank)
        return self._groups[ranks] if len(ranks) > 1 else Group(ranks)

    def agree(self, value: T) -> T:
        return self.broadcast(value)

    def broadcast(self, value: T, source: int = 0) -> T:
        import torch
        import torch.distributed as dist

        head: list[Any] = [None]
        numbers: list[torch.Tensor] = []
        if self.rank == source:
            try:
                sent, numbers = packed(value)
                head = [sent]
            except Exception as error:
                head = [f"{type(error).__name__}: {error}"]
        with self._exchange(0):
            dist.broadcast_object_list(head, src=source, device=torch.device("cpu"))
        if isinstance(head[0], str):
            raise cannot_send(value, head[0])
        size = 0
        for number, form in enumerate(head[0].forms):
            if self.rank != source:
                length = prod(form.shape) * form.dtype.itemsize
                numbers.append(torch.empty(length, dtype=torch.uint8, device=form.device))
            size += numbers[number].numel()
        with self._exchange(size if self.rank == source else 0):
            for each in numbers:
                if each.numel():
                    dist.broadcast(each, src=source)
        found: T = value if self.rank == source else unpacked(head[0], numbers)
        return found

    def any_of(self, flags: Sequence[bool]) -> tuple[bool, ...]:
        import torch
        import torch.distributed as dist

        found = torch.tensor(list(flags), dtype=torch.uint8)  # on the CPU: the host waits, and no device
        with self._exchange(0):  # only bytes of tensors count
            dist.all_reduce(found, op=dist.ReduceOp.MAX)
        return tuple(map(bool, found.tolist()))

    def exchanged(self, sent: int, waited: float = 0.0) -> None:
        self.sent += sent
        self.waited += waited
        self.count += 1

    @contextmanager
    def _exchange(self, sent: int) -> Iterator[None]:
        began, self.waiting = perf_counter(), True
        self.count += 1
        try:
            yield
        finally:
            self.waiting = False
            self.exchanged(sent, perf_counter() - began)
