"""Measures the rates of a device: matrix products, copies, transfers from the host, reading from the disk.

Each rate is the best of a few repeats: a limit is what the machine can do, not what it does while it is busy.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from ...graph.contract.machine_limits import MachineLimits

if TYPE_CHECKING:
    import torch

SECONDS = 0.4
"""Time for each rate, after one call that does not count."""

DTYPES = ("float32", "bfloat16", "float16")
GPU_SIZE, CPU_SIZE = 8192, 1024
"""Rows and columns of the matrices. A product of 8192 fills an H100; one of 1024 fills the cores of a CPU."""

DISK_BYTES = 256 << 20


def key(device: str) -> str:
    """The name of a device: the card or processor, and for a CPU the number of threads; the version of torch."""
    import torch

    threads = f" {torch.get_num_threads()} threads" if device == "cpu" else ""
    return f"{card(device)}{threads} torch {torch.__version__}"


def card(device: str) -> str:
    """Name of the GPU, or of the processor."""
    if device.startswith("cuda"):
        import torch

        return torch.cuda.get_device_name(device)
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    import platform

    return platform.processor() or platform.machine()


def measure(device: str) -> MachineLimits:
    """Measure the rates of `cpu` or `cuda`. This takes a few seconds."""
    import torch

    gpu = device.startswith("cuda")
    with torch.no_grad():
        return MachineLimits(
            card=card(device),
            torch=torch.__version__,
            threads=None if gpu else torch.get_num_threads(),
            matrix=matrix_rates(device),
            copy=copy_rate(device),
            host_to_device=host_to_device_rate(device) if gpu else None,
            disk=disk_rate(),
            measured=f"{datetime.now(UTC):%Y-%m-%d}",
        )


def best(call: Callable[[], Any], device: str) -> float:
    """Seconds of the fastest call, after one that does not count.

    On a GPU, several calls are in flight at once, and each measurement is their mean.
    """
    import torch

    gpu = device.startswith("cuda")
    calls = 10 if gpu else 1

    def measured() -> float:
        began = perf_counter()
        for _ in range(calls):
            call()
        if gpu:
            torch.cuda.synchronize()
        return (perf_counter() - began) / calls

    measured()
    end, found = perf_counter() + SECONDS, measured()
    while perf_counter() < end:
        found = min(found, measured())
    return found


def matrix_rates(device: str, size: int | None = None) -> dict[str, float]:
    """Operations per second of square matrix products, by dtype; dtypes that the device lacks are left out."""
    import torch

    gpu = device.startswith("cuda")
    size = size or (GPU_SIZE if gpu else CPU_SIZE)
    found: dict[str, float] = {}

    def rate(name: str, call: Callable[[], Any]) -> None:
        with suppress(RuntimeError, NotImplementedError, TypeError, AttributeError):
            found[name] = 2.0 * size**3 / best(call, device)

    before = torch.backends.cuda.matmul.allow_tf32
    try:
        torch.backends.cuda.matmul.allow_tf32 = False
        for name in DTYPES:
            a = torch.randn(size, size, device=device).to(getattr(torch, name))
            out = torch.empty_like(a)
            rate(name, lambda a=a, out=out: torch.mm(a, a, out=out))  # type: ignore[misc]
        if gpu and torch.cuda.get_device_capability(device) >= (8, 0):
            torch.backends.cuda.matmul.allow_tf32 = True
            single = torch.randn(size, size, device=device)
            product = torch.empty_like(single)
            rate("tf32", lambda: torch.mm(single, single, out=product))
        if gpu:
            rate("float8", _float8(size, device))
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
    return found


def _float8(size: int, device: str) -> Callable[[], Any]:
    """A product of float8 matrices. The second one must be in column order."""
    import torch

    made: list[torch.Tensor] = []

    def call() -> Any:
        if not made:
            made.append(torch.randn(size, size, device=device).to(torch.float8_e4m3fn))
            made.append(torch.ones((), device=device))
        a, one = made
        return torch._scaled_mm(a, a.t(), scale_a=one, scale_b=one, out_dtype=torch.bfloat16)

    return call


def copy_rate(device: str) -> float:
    """Bytes per second that a copy within the device's memory reads and writes."""
    import torch

    size = (1 << 30) if device.startswith("cuda") else (64 << 20)
    source = torch.ones(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2.0 * size / best(lambda: target.copy_(source), device)


def host_to_device_rate(device: str) -> float:
    """Bytes per second from pinned host memory to the device."""
    import torch

    size = 256 << 20
    source = torch.ones(size, dtype=torch.uint8).pin_memory()
    target = torch.empty(size, dtype=torch.uint8, device=device)
    return size / best(lambda: target.copy_(source, non_blocking=True), device)


def disk_rate(folder: Path | None = None) -> float | None:
    """Bytes per second of reading a file that the system does not have in memory; None if that cannot be arranged.

    Args:
        folder: A folder on the disk; by default the cache of the model hub, or the nearest folder above it.
    """
    if not hasattr(os, "posix_fadvise"):
        return None
    folder = folder or _cache()
    name = folder / f".sgd-{os.getpid()}-{os.urandom(8).hex()}.part"
    block = bytearray(os.urandom(1 << 20)) * 8
    try:
        descriptor = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    except OSError:
        return None
    try:
        for _ in range(DISK_BYTES // len(block)):
            os.write(descriptor, block)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.lseek(descriptor, 0, os.SEEK_SET)
        began, read = perf_counter(), 0
        while got := os.readv(descriptor, [block]):
            read += got
        return read / (perf_counter() - began)
    except OSError:
        return None
    finally:
        os.close(descriptor)
        with suppress(OSError):
            name.unlink()


def _cache() -> Path:
    """The cache of the model hub, or the nearest folder above it that exists and can be written."""
    from huggingface_hub import constants

    folder = Path(constants.HF_HUB_CACHE)
    while not (folder.is_dir() and os.access(folder, os.W_OK)) and folder != folder.parent:
        folder = folder.parent
    return folder
