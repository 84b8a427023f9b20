"""The exchange of predictions between the ranks of the branches of guidance."""

from __future__ import annotations

from collections.abc import Sequence
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

    from .collectives import GROUPS, bytes_of, members

    if len(made) == len(running) and run.processes.mesh.branches == 1:
        return tuple(made)
    if len(running) == 1:
        return (run.processes.broadcast(made[0] if made else None),)  # type: ignore[return-value]
    own = made[0].contiguous()
    found = [torch.empty_like(own) for _ in running]
    group = GROUPS[members(run.processes, "branches")]
    group.exchange(own.numel() * own.element_size(), dist.all_gather, [bytes_of(each) for each in found], bytes_of(own))
    return tuple(found)
