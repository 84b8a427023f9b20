"""How much room the device of a run has, for nodes that work in another way where there is little."""

from __future__ import annotations

from ...graph.contract import device
from ...graph.contract.node import Run
from ...graph.contract.text_tables import count
from . import planning_meter

HEADROOM = 1.1
"""Factor on the bytes that a plan counts: workspace inside kernels and fragmentation are not in them. A guess."""


def target(run: Run) -> str:
    """The device that a run uses; while planning, the one that the run would use."""
    return str(run.options.get("device", "cpu")) if run.planning else run.device


def free(run: Run) -> int | None:
    """Bytes of the device that are free now; None if that is not known.

    While planning, it is the device's memory (`Run.options`, `memory_bytes`) less the plan's live bytes at this point.
    On a GPU, memory that torch has reserved and does not use is free; on a CPU, memory that the system calls available.
    """
    if run.planning:
        total = run.options.get("memory_bytes")
        return None if total is None else max(int(total) - planning_meter.live_bytes(), 0)
    if not run.device.startswith("cuda"):
        return device.memory_bytes(run.device)
    import torch

    unused = torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
    return int(torch.cuda.mem_get_info()[0]) + unused


def size(bytes: float) -> str:
    """Bytes for people: `7.61 GiB`."""
    return count(int(bytes), "B", 1024) if bytes >= 1 else "0 B"


def exhausted(error: BaseException) -> bool:
    """Whether an error says that there was too little memory, of a GPU or of the host."""
    import torch

    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    # On a CPU torch has no exception class of its own for this.
    return isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)
