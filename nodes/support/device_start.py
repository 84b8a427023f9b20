"""Start a GPU beside the import of packages: the context of the process, and the library of matrix products."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress


@contextmanager
def device_starting(device: str) -> Iterator[None]:
    """Start a GPU in a thread while this thread is inside `with`, and wait for it at the end.

    The driver makes the context of a process without Python, so imports go on meanwhile. Nothing happens for another
    device, or if the process uses its GPU already. An error is left to the node that uses the GPU first, which can
    report it.
    """
    import torch

    if not device.startswith("cuda") or torch.cuda.is_initialized():
        yield
        return
    thread = threading.Thread(target=_start, args=(device,), name="sgd device", daemon=True)
    thread.start()
    try:
        yield
    finally:
        thread.join()


def _start(device: str) -> None:
    import torch

    with suppress(Exception):
        ones = torch.ones(16, 16, device=device, dtype=torch.bfloat16)
        torch.mm(ones, ones)
        torch.cuda.synchronize(device)
