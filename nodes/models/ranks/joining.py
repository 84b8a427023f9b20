"""A rank joins the others of its run."""

from __future__ import annotations

import os
import sys
from datetime import timedelta
from typing import TYPE_CHECKING

from ....graph.contract.errors import NodeError
from ....graph.contract.processes import Mesh
from ....graph.contract.rank_start import RankPlace
from .store_board import StoreBoard
from .torch_processes import TorchProcesses

if TYPE_CHECKING:
    import torch

PATIENCE = timedelta(minutes=5)
"""How long a rank waits for the store, and for the others to come."""


def client() -> torch.distributed.Store:
    """A client of the store that the launcher holds.

    Raises:
        NodeError: If it does not answer.
    """
    from torch.distributed import TCPStore

    host, port = os.environ.get("MASTER_ADDR", ""), os.environ.get("MASTER_PORT", "")
    try:
        return TCPStore(host, int(port), is_master=False, timeout=PATIENCE, wait_for_workers=False)
    except (RuntimeError, ValueError) as error:
        raise NodeError(f"no process answers at {host}:{port}: {error}", help="start the ranks again") from error


class TorchRanks:
    """The ranks of a run; a `JoinedRanks`.

    Args:
        place: The place of this process.
        mesh: How the processes are arranged.
        device: `cpu` or `cuda`.

    Raises:
        NodeError: If the others do not come.
    """

    def __init__(self, place: RankPlace, mesh: Mesh, device: str) -> None:
        self.place, self.mesh, self.device = place, mesh, device
        self.board = StoreBoard(client())
        self._processes: TorchProcesses | None = None

    def join(self) -> TorchProcesses:
        import torch.distributed as dist

        try:
            store = dist.PrefixStore("sgd/groups", client())
            self._processes = TorchProcesses(store, self.place.rank, self.mesh, self.device)
        except RuntimeError as error:
            raise NodeError(f"the other processes did not come: {error}") from error
        return self._processes

    def exchanged_bytes(self) -> int:
        return self._processes.sent if self._processes is not None else 0

    def waited_seconds(self) -> float:
        return self._processes.waited if self._processes is not None else 0.0

    def collectives(self) -> int:
        return self._processes.count if self._processes is not None else 0

    def waits(self) -> bool:
        return self._processes is not None and self._processes.waiting

    def is_lost(self, error: BaseException) -> bool:
        import torch.distributed as dist

        if isinstance(error, dist.DistError):
            return True
        return isinstance(error, RuntimeError) and any(word in str(error) for word in ("gloo", "NCCL", "c10d"))

    def peak_bytes(self) -> int | None:
        if self.device == "cuda":
            import torch

            return int(torch.cuda.max_memory_allocated())
        try:
            import resource
        except ImportError:  # not Unix
            return None
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
