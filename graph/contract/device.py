"""Which device a run uses and how much memory it has. Torch is imported only where a plan needs it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from .errors import NodeError


def choose(name: str, libraries: Sequence[ModuleType]) -> str:
    """`cpu` or `cuda` for what the caller asked; `auto` is a GPU if there is one and the plan's libraries use torch.

    Raises:
        NodeError: If a GPU was asked for and there is none.
    """
    if name == "cpu" or (name == "auto" and not any(hasattr(m, "runtime") for m in libraries)):
        return "cpu"
    import torch

    if torch.cuda.is_available():
        return "cuda"
    if name == "auto":
        return "cpu"
    built = "this torch was built without CUDA" if torch.version.cuda is None else "torch finds no NVIDIA GPU"
    raise NodeError(f"--device cuda: {built}", help="`sgd doctor` says more; --device cpu works everywhere")


def memory_bytes(device: str) -> int | None:
    """Memory of the device: a GPU's own, a CPU's available RAM; None if the system does not tell."""
    if device.startswith("cuda"):
        import torch

        return int(torch.cuda.get_device_properties(0).total_memory)
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        for line in meminfo.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return None
