"""The free memory of a run's device, for nodes that save memory if there is too little."""

from __future__ import annotations

from ...graph.contract import device
from ...graph.contract.node import Run
from ...graph.contract.text_tables import count
from . import cost_meter

HEADROOM = 1.1
"""Factor on the bytes of a plan, which leave out workspace of kernels and fragmentation. The factor is a guess.
"""


def target(run: Run) -> str:
    """The device that a run uses; while planning, the device of the planned run."""
    return str(run.options.get("device", "cpu")) if run.planning else run.device


def free(run: Run) -> int | None:
    """Free bytes of the device; None if they are not known.

    While planning: the device's memory (`Run.options`, `memory_bytes`) minus the plan's live bytes at this point.
    On a GPU, memory that torch has reserved but does not use counts as free. On a CPU, available memory does.
    """
    if run.planning:
        total = run.options.get("memory_bytes")
        return None if total is None else max(int(total) - cost_meter.live_bytes(), 0)
    if not run.device.startswith("cuda"):
        return device.memory_bytes(run.device)
    import torch

    unused = torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
    return int(torch.cuda.mem_get_info()[0]) + unused


def size(bytes: float) -> str:
    """A number of bytes as text: `7.61 GiB`."""
    return count(int(bytes), "B", 1024) if bytes >= 1 else "0 B"


def exhausted(error: BaseException) -> bool:
    """Whether an error means that a GPU or the host ran out of memory."""
    import torch

    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    # torch has no exception class for exhausted memory of a CPU.
    return isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)
