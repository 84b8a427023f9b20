"""The machine and the packages of a run, for its record and its recipe."""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterable
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from typing import Any


def environment(device: str, packages: Iterable[str]) -> dict[str, Any]:
    """The machine, and the versions of packages by name; None for one that is not installed."""
    found: dict[str, Any] = {"device": device, "python": platform.python_version(), "os": platform.platform()}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    torch = sys.modules.get("torch")
    if torch is not None and device.startswith("cuda"):
        with suppress(Exception):  # torch may be half imported, or the GPU may fail
            found["device"] = torch.cuda.get_device_name()
    return found
