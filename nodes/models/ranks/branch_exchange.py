"""The exchange of predictions between the ranks of the branches of guidance."""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter
from typing import TYPE_CHECKING

from ....graph.contract.node import Run

if TYPE_CHECKING:
    import torch


def own_branches(run: Run, running: Sequence[str]) -> tuple[str, ...]:
    """Those of the branches that run at a step which this rank computes: all, or the one of its place in the mesh.

    Branches keep their ranks: where one runs alone, the ranks of the other compute nothing, so that each gate sees
    every step of its branch.
    """
    processes = run.processes
    if processes.mesh.branches == 1:
        return tuple(running)
    branch = processes.mesh.place(processes.rank).branch
    return tuple(running[branch : branch + 1])


def exchanged(run: Run, running: Sequence[str], made: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    """The predictions of all branches that run.

    Args:
        run: The run.
        running: Names of the branches.
        made: The predictions of `own_branches`, of one shape and dtype on all ranks.
    """
    import torch
    import torch.distributed as dist

    if len(made) == len(running) and run.processes.mesh.branches == 1:
        return tuple(made)
    if len(running) == 1:
        return (run.processes.broadcast(made[0] if made else None),)  # type: ignore[return-value]
    own = made[0].contiguous()
    group = run.processes.group("branches")
    found = [torch.empty_like(own) for _ in running]
    began = perf_counter()
    dist.all_gather([_bytes(each) for each in found], _bytes(own), group=group.handle)
    run.processes.exchanged(own.numel() * own.element_size(), perf_counter() - began)
    return tuple(found)


def _bytes(tensor: torch.Tensor) -> torch.Tensor:
    """The numbers of a contiguous tensor as uint8 [n], in the same memory: backends lack dtypes."""
    import torch

    return tensor.reshape(-1).view(torch.uint8)
