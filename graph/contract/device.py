"""The device of a run and its memory. Torch is imported only if a plan needs it."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

from .errors import NodeError
from .importing import importing
from .node_library import NodeLibrary
from .rank_start import RankPlace


def choose(name: str, libraries: Collection[NodeLibrary]) -> str:
    """Choose the device, `cpu` or `cuda`, for a name on the command line.

    Args:
        name: `cpu`, `cuda` or `auto`. `auto` is a GPU if there is one and a library of the plan uses GPUs.
        libraries: The libraries of the plan.

    Raises:
        NodeError: If `name` is `cuda` and torch finds no GPU.
    """
    if name == "cpu" or (name == "auto" and not any(library.uses_gpu for library in libraries)):
        return "cpu"
    with importing(libraries):
        import torch

    if torch.cuda.is_available():
        return "cuda"
    if name == "auto":
        return "cpu"
    built = "this torch was built without CUDA" if torch.version.cuda is None else "torch finds no NVIDIA GPU"
    raise NodeError(f"--device cuda: {built}", help="run `sgd doctor` for details; --device cpu works everywhere")


def cards(device: str) -> int | None:
    """The number of GPUs of this process; None for another device."""
    if not device.startswith("cuda"):
        return None
    import torch

    return int(torch.cuda.device_count())


def take_card(place: RankPlace) -> None:
    """Leave this process the GPU with its number on this host. Called before torch is imported."""
    name = "CUDA_VISIBLE_DEVICES"
    visible = os.environ.get(name)
    if visible is None:
        os.environ[name] = str(place.local)
        return
    numbers = [number.strip() for number in visible.split(",")]
    if len(numbers) > 1:  # a launcher may have chosen one already
        os.environ[name] = numbers[place.local] if place.local < len(numbers) else ""


DRIVERS = ("/dev/nvidiactl", "/dev/nvidia0", "/proc/driver/nvidia", "/dev/kfd", "/dev/dxg")
"""Files of Linux without which torch finds no GPU: drivers of NVIDIA, of AMD, and of Windows below."""


def choose_quickly(libraries: Collection[NodeLibrary]) -> str:
    """The device of `auto`. Torch is not imported on a machine without the driver of a GPU."""
    on_linux = os.path.isdir("/proc/self")
    return "cpu" if on_linux and not any(map(os.path.exists, DRIVERS)) else choose("auto", libraries)


def memory_bytes(device: str) -> int | None:
    """Bytes of memory: all memory of a GPU, or the available RAM for a CPU. None if the system does not report it."""
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
