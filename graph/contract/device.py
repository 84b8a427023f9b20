"""The device of a run and its memory. Torch is imported only if a plan needs it."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import NodeError
from .importing import importing
from .node_library import NodeLibrary
from .rank_start import RankPlace

VISIBLE = "CUDA_VISIBLE_DEVICES"
"""The environment variable that names the GPUs of a process."""


def card_number(name: str) -> int | None:
    """The number of the GPU that a name such as `cuda:1` chooses; None for another name."""
    found = re.fullmatch(r"cuda:(\d{1,4})", name, re.ASCII)
    return int(found[1]) if found is not None else None


@contextmanager
def one_card(name: str) -> Iterator[None]:
    """Inside `with`, let this process see only the GPU of a name such as `cuda:1`. Other names change nothing.

    The process must not have used a GPU before. `choose` raises an error if there is no such GPU.
    """
    number, before = card_number(name), os.environ.get(VISIBLE)
    if number is None:
        yield
        return
    os.environ[VISIBLE] = _nth(before, number)
    _visible_before.append(before)
    try:
        yield
    finally:
        _visible_before.pop()
        _set_visible(before)


_visible_before: list[str | None] = []
"""The GPUs that this process could see before `one_card`."""


def _nth(visible: str | None, number: int) -> str:
    """The entry of a GPU in `VISIBLE`, by its number in that list; empty if there is none."""
    if visible is None:
        return str(number)
    names = [name.strip() for name in visible.split(",")]
    return names[number] if number < len(names) else ""


def _set_visible(value: str | None) -> None:
    if value is None:
        os.environ.pop(VISIBLE, None)
    else:
        os.environ[VISIBLE] = value


def _require_card(name: str, number: int) -> None:
    """Check that `one_card` has left this process a GPU.

    Raises:
        NodeError: If it has not.
    """
    import torch

    help = f"set {VISIBLE}={number} where the process starts, and leave the number out"
    if not _visible_before or (torch.cuda.is_initialized() and torch.cuda.device_count() != 1):
        raise NodeError(f"--device {name}: this process uses its GPUs already", help=help)
    if torch.version.cuda is None or torch.cuda.device_count():
        return
    one = os.environ.get(VISIBLE)
    _set_visible(_visible_before[-1])
    try:
        count = torch.cuda.device_count()
    finally:
        _set_visible(one)
    if count:
        known = "cuda:0" if count == 1 else f"cuda:0 to cuda:{count - 1}"
        message = f"--device {name}: there is no such GPU; torch finds {count}"
        raise NodeError(message, help=f"choose {known}; `sgd doctor` lists them")


def choose(name: str, libraries: Collection[NodeLibrary]) -> str:
    """Choose the device, `cpu` or `cuda`, for a name on the command line.

    Args:
        name: `cpu`, `cuda`, `auto`, or `cuda:1` for one GPU inside `one_card`. `auto` is a GPU if there is one and a
            library of the plan uses GPUs.
        libraries: The libraries of the plan.

    Raises:
        NodeError: If `name` asks for a GPU, and torch does not find it.
    """
    if name == "cpu" or (name == "auto" and not any(library.uses_gpu for library in libraries)):
        return "cpu"
    with importing(libraries):
        import torch

    number = card_number(name)
    if number is not None:
        _require_card(name, number)
    if torch.cuda.is_available():
        return "cuda"
    if name == "auto":
        return "cpu"
    built = "this torch was built without CUDA" if torch.version.cuda is None else "torch finds no NVIDIA GPU"
    raise NodeError(f"--device {name}: {built}", help="run `sgd doctor` for details; --device cpu works everywhere")


def require_second_card(name: str, head: str) -> None:
    """Check that there is another GPU beside that of the run.

    Args:
        name: Its name with a number, such as `cuda:1`.
        head: The device of the run.

    Raises:
        NodeError: If there is none of that name, or it is the device of the run.
    """
    number, option = card_number(name), f"--overlap-device {name}"
    if number is None:
        raise NodeError(f"{option}: {name} is no GPU with a number", help="write `--overlap-device cuda:1`")
    if not head.startswith("cuda"):
        message = f"{option}: the run is on the device {head}, and both must be GPUs"
        raise NodeError(message, help="leave it out, or run on a GPU")
    import torch

    count = torch.cuda.device_count()
    own = card_number(head)
    if own is None:
        own = torch.cuda.current_device() if torch.cuda.is_initialized() else 0
    if number >= count:
        others = ", ".join(f"cuda:{other}" for other in range(count) if other != own)
        help = f"choose {others}; `sgd doctor` lists them" if others else "write `--overlap`: it needs no other GPU"
        raise NodeError(f"{option}: there is no such GPU; torch finds {count}", help=help)
    if number == own:
        help = "name another GPU; or write `--overlap` for one GPU"
        raise NodeError(f"{option}: the run itself is on that GPU", help=help)


def cards(device: str) -> int | None:
    """The number of GPUs of this process; None for another device."""
    if not device.startswith("cuda"):
        return None
    import torch

    return int(torch.cuda.device_count())


CARDS = Path("/proc/driver/nvidia/gpus")
"""A folder in which NVIDIA's driver for Linux has one folder for each GPU."""


def shared_cards() -> int | None:
    """The number of GPUs that the ranks of this host share; None if not known. Call it before `take_card`."""
    visible = os.environ.get(VISIBLE)
    if visible is not None:
        # One name may be a GPU that a launcher has chosen for this rank.
        return len(visible.split(",")) if "," in visible else None
    return sum(1 for _ in CARDS.iterdir()) if CARDS.is_dir() else None


def take_card(place: RankPlace) -> None:
    """Leave this process the GPU with its number on this host. Called before torch is imported."""
    visible = os.environ.get(VISIBLE)
    if visible is None or "," in visible:  # a launcher may have chosen one already
        os.environ[VISIBLE] = _nth(visible, place.local)


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

        return int(torch.cuda.get_device_properties(card_number(device) or 0).total_memory)
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        for line in meminfo.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return None
