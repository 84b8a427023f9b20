"""The machine of a measurement, and tools of all measurements: time calls, find their peak, compare tensors."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from itertools import chain, pairwise
from typing import Any

import torch

ATTENTION = ("fa3-fwd", "flash-attn", "flash-attn-4", "sageattention", "xformers")
PACKAGES = ("triton", "diffusers", "transformers", "cache-dit", *ATTENTION)


@dataclass(frozen=True)
class Machine:
    """Facts of a machine.

    Attributes:
        card: Name of the GPU; `cpu` without one.
        driver: Version of its driver.
        limit: The power limit of the card, such as `700.00 W`.
        python: Version of Python.
        packages: Versions of torch, CUDA and other packages that are installed.
        product: TFLOP/s of an 8192 cubed product in bfloat16, measured; 0 without a GPU.
    """

    card: str
    driver: str = ""
    limit: str = ""
    python: str = ""
    packages: dict[str, str] = field(default_factory=dict)
    product: float = 0.0

    def text(self) -> str:
        """One line."""
        versions = ", ".join(f"{name} {number}" for name, number in self.packages.items())
        if not self.product:
            return f"{self.card}: Python {self.python}, {versions}"
        card = f"{self.card} (limit {self.limit}, driver {self.driver}, product of 8192³ {self.product:.0f} TFLOP/s)"
        return f"{card}: Python {self.python}, {versions}"


def packages() -> dict[str, str]:
    """Versions of torch, its CUDA and the packages in `PACKAGES`."""
    found = {"torch": str(torch.__version__)}
    if torch.version.cuda:
        found |= {"cuda": torch.version.cuda, "cudnn": str(torch.backends.cudnn.version())}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def this_machine(device: str) -> Machine:
    """The facts of this machine. On a GPU the product is measured, which takes a moment."""
    python = platform.python_version()
    if device != "cuda":
        return Machine("cpu", python=python, packages=packages())
    driver, _, limit = _query("driver_version,power.limit").partition(", ")
    return Machine(torch.cuda.get_device_name(), driver, limit, python, packages(), product())


def state() -> str:
    """Clock, power and temperature of the card now."""
    return _query("clocks.sm,power.draw,temperature.gpu")


def _query(fields: str) -> str:
    command = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader"]
    shown = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[0]  # nvidia-smi counts all cards
    command += [f"--id={shown}"] if shown else []
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return ""
    lines = done.stdout.strip().splitlines()
    return lines[0] if lines else ""


def product() -> float:
    """TFLOP/s of an 8192 cubed product in bfloat16: the rate of this card for the largest products."""
    left, right = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    return 2 * 8192**3 / statistics.median(calls(lambda: left @ right, "cuda", 20)[0]) / 1e12


def wait(device: str) -> None:
    """Wait until the device has done all its work."""
    if device == "cuda":
        torch.cuda.synchronize()


def waited(call: Callable[[], Any], device: str) -> float:
    """Seconds of a call, until the device has done its work."""
    wait(device)
    began = time.perf_counter()
    call()
    wait(device)
    return time.perf_counter() - began


def calls(call: Callable[[], Any], device: str, repeats: int) -> tuple[list[float], str]:
    """Seconds of each of some calls in a row, and `state` during them. An extra call comes before several."""
    if repeats > 1:
        call()
    wait(device)
    if device != "cuda":
        return [waited(call, device) for _ in range(repeats)], ""
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(repeats + 1)]
    marks[0].record()
    for mark in marks[1:]:
        call()
        mark.record()
    during = state()
    torch.cuda.synchronize()
    return [a.elapsed_time(b) / 1e3 for a, b in pairwise(marks)], during


def peak(call: Callable[[], Any], module: torch.nn.Module, device: str) -> int:
    """Bytes of a module's weights and of the memory that a call takes above what was in use; 0 on a CPU."""
    if device != "cuda":
        call()
        return 0
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    torch.cuda.synchronize()
    stores = {t.untyped_storage().data_ptr(): t.untyped_storage() for t in chain(module.parameters(), module.buffers())}
    return torch.cuda.max_memory_allocated() - before + sum(store.nbytes() for store in stores.values())


def relative(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """Relative difference in the Euclidean norm."""
    return float((found.float() - wanted.float()).norm() / wanted.float().norm())


def require_near(found: torch.Tensor, wanted: torch.Tensor, bound: float) -> float:
    """The relative difference of two results.

    Raises:
        AssertionError: If a value is not finite, or the difference is beyond the bound: such results are not timed.
    """
    if not torch.isfinite(found).all():
        raise AssertionError("not timed: values are not finite")
    error = relative(found, wanted)
    if error > bound:
        raise AssertionError(f"not timed: the relative difference is {error:.2e}, the bound {bound}")
    return error
