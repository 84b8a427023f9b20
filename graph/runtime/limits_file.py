"""The measured limits of this machine in the user's cache folder: one file for each device, torch and thread count."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from ..contract.errors import NodeError, UnreadableFile
from ..contract.json_reader import parse_json
from ..contract.machine_limits import MachineLimits
from ..contract.node_library import NodeLibrary
from ..contract.output_files import replace_text, unwritable

MOST_BYTES = 1 << 16
ADVICE = "run `sgd doctor --measure` to see how near each node came to this machine's limits"


def folder() -> Path:
    """`sgd/limits` in `XDG_CACHE_HOME`, or in `.cache` of the home folder."""
    base = os.environ.get("XDG_CACHE_HOME")
    root = Path(base) if base and Path(base).is_absolute() else Path.home() / ".cache"
    return root / "sgd" / "limits"


def path_of(key: str) -> Path:
    """The file for a device. `key` comes from `NodeLibrary.limits_key`."""
    return folder() / (re.sub(r"[^A-Za-z0-9.+_-]+", "-", key)[:150] + ".json")


def key_of(device: str, libraries: Iterable[NodeLibrary]) -> tuple[NodeLibrary, str] | None:
    """The library that can measure a device, and its name for the device."""
    for library in libraries:
        key = library.limits_key(device)
        if key:
            return library, key
    return None


def stored(device: str, libraries: Iterable[NodeLibrary]) -> MachineLimits | None:
    """The limits measured earlier; None if there are none.

    Raises:
        UnreadableFile: If the file is damaged.
    """
    found = key_of(device, libraries)
    if found is None:
        return None
    path = path_of(found[1])
    try:
        with path.open("rb") as file:
            data = file.read(MOST_BYTES)
    except OSError:
        return None
    value = parse_json(data, str(path))
    limits = _limits(value)
    if limits is None:
        raise UnreadableFile(f"{path} is damaged", help="run `sgd doctor --measure`")
    return limits


def stored_or_none(device: str, libraries: Iterable[NodeLibrary]) -> MachineLimits | None:
    """The limits measured earlier; None if there are none, or if the file is damaged."""
    with suppress(UnreadableFile, NodeError, OSError):
        return stored(device, libraries)
    return None


def measure(device: str, libraries: Iterable[NodeLibrary]) -> tuple[MachineLimits, Path]:
    """Measure the limits of a device, and store them.

    Raises:
        NodeError: If no library can measure the device, or the file cannot be written.
    """
    found = key_of(device, libraries)
    if found is None:
        raise NodeError(f"no installed node library can measure {device}")
    library, key = found
    limits, path = library.measure_limits(device), path_of(key)
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        replace_text(path, json.dumps(asdict(limits), indent=1) + "\n")
        path.chmod(0o600)
    except OSError as error:
        raise unwritable(path, error) from error
    return limits, path


def _limits(value: Any) -> MachineLimits | None:
    """The limits that a file holds; None if it holds something else."""
    if not isinstance(value, Mapping) or set(value) != {each.name for each in fields(MachineLimits)}:
        return None
    matrix = value["matrix"]
    good = (
        all(isinstance(value[name], str) for name in ("card", "torch", "measured"))
        and (value["threads"] is None or isinstance(value["threads"], int))
        and isinstance(matrix, Mapping)
        and all(_rate(rate) for rate in matrix.values())
        and _rate(value["copy"])
        and all(value[name] is None or _rate(value[name]) for name in ("host_to_device", "disk"))
    )
    return MachineLimits(**value) if good else None


def _rate(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value > 0
