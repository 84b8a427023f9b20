"""Launches of Triton kernels. A thread may gather them on the meta device, to build the kernels in advance.

The arguments of a launch decide on the kernel: their types, alignment and constants. A thread that gathers launches
runs the same code on the meta device, so the signature of a kernel is written only once. The module imports torch and
Triton only inside functions.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...graph.contract.process_state import shared

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Launch:
    """A launch that was gathered.

    Attributes:
        kernel: The kernel, a function of Triton.
        grid: Numbers of programs.
        arguments: Its arguments.
        options: Its constants by name, and the number of warps.
    """

    kernel: Any
    grid: tuple[int, ...]
    arguments: tuple[Any, ...]
    options: Mapping[str, Any]


class _OfThread(threading.local):
    gathered: list[Launch] | None = None
    device: torch.device | None = None


_thread = _OfThread()


def launch(kernel: Any, grid: tuple[int, ...], *arguments: Any, **options: Any) -> None:
    """Launch a kernel of Triton, or gather the launch."""
    gathered = _thread.gathered
    if gathered is None:
        kernel.run(*arguments, grid=grid, warmup=False, **options)
    else:
        gathered.append(Launch(kernel, grid, arguments, options))


@contextmanager
def gathering(device: torch.device) -> Iterator[list[Launch]]:
    """Gather the launches of this thread inside `with`; tensors on the meta device stand for those of a device.

    Args:
        device: The device on which the kernels will run.

    Yields:
        The launches so far.
    """
    before = _thread.gathered, _thread.device
    made: list[Launch] = []
    _thread.gathered, _thread.device = made, device
    try:
        yield made
    finally:
        _thread.gathered, _thread.device = before


def gathers(tensor: torch.Tensor) -> bool:
    """Whether a tensor stands for one on a GPU, because this thread gathers launches."""
    return _thread.device is not None and tensor.is_meta


def gathering_for() -> torch.device | None:
    """The device for which this thread gathers launches; None if it gathers none."""
    return _thread.device


def build(launches: Iterable[Launch], device: torch.device, stop: Callable[[], bool]) -> int:
    """Compile the kernels of launches for a device, or read them from Triton's cache. Nothing is launched.

    A kernel that cannot be compiled is left out: its first launch raises the error.

    Args:
        launches: The launches.
        device: The device.
        stop: Asked before each launch.

    Returns:
        Number of kernels.
    """
    import torch

    built: set[int] = set()
    with torch.cuda.device(device) if torch.cuda.is_available() else nullcontext():
        for each in launches:
            if stop():
                break
            with suppress(Exception), shared():  # a thread that times something is alone
                made = each.kernel.run(*each.arguments, grid=each.grid, warmup=True, **each.options)
                if id(made) not in built:
                    built.add(id(made))
                    _build_launcher(made)
    return len(built)


def _build_launcher(kernel: Any) -> None:
    """Let Triton compile the C function that launches a kernel, if it has one for each kernel, and keep it on disk.

    The kernel itself does not get it: another thread may be about to make the kernel ready for its first launch.
    """
    from triton.runtime import driver

    if getattr(kernel, "_run", None) is None:
        driver.active.launcher_cls(kernel.src, kernel.metadata)
