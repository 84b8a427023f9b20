"""`sgd doctor`: the machine itself, the facts that node libraries add, and the machine's measured limits."""

from __future__ import annotations

import json
import os
import platform
import shutil
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from ...contract import kernel_caches
from ...contract.constants import DONE, FAILED
from ...contract.device import memory_bytes
from ...contract.errors import NodeError, UnreadableFile
from ...contract.machine_limits import MachineLimits
from ...contract.node_library import NodeLibrary
from ...contract.text_tables import count
from ...language.registry import installed
from ...runtime import limits_file
from ..fitted_tables import fitted
from ..terminal import say, show, stdout_width


def add_arguments(to: ArgumentParser, _: Sequence[NodeLibrary]) -> None:
    """Add the arguments of `sgd doctor`."""
    to.add_argument("--json", action="store_true", help="print the facts as JSON on stdout")
    to.add_argument(
        "--measure", action="store_true", help="measure the machine's limits again: arithmetic, memory, disk"
    )


def command(arguments: Namespace) -> int:
    """`sgd doctor`."""
    libraries = list(installed().libraries.values())
    kernel_caches.prepare(libraries)  # before torch is imported
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    limits: MachineLimits | None = None
    damage = None
    try:
        if arguments.measure:
            limits, file = limits_file.measure(device, libraries)
            say(f"measured; kept in {file}")
        else:
            limits = limits_file.stored(device, libraries)
    except UnreadableFile as error:
        damage = str(error)
    except NodeError as error:
        say(f"error: {error}")
        return FAILED
    found: dict[str, Mapping[str, str]] = {"Machine": machine()}
    for library in libraries:
        found.update(library.machine_facts())
    found["Kernels"] = kernel_facts(libraries)
    if arguments.json:
        known = {"Limits": asdict(limits) if limits is not None else None}
        print(json.dumps({**found, **known} | ({"problem": damage} if damage else {}), indent=1))
        return DONE
    found["Limits"] = limit_facts(limits, damage)
    for section, facts in found.items():
        show(section)
        rows = [[f"  {name}", value] for name, value in facts.items()]
        show("\n".join(fitted(rows, stdout_width(), flexible=1, wrap=True)))
    return DONE


def kernel_facts(libraries: Sequence[NodeLibrary]) -> dict[str, str]:
    """The caches of kernels: the folder, its size and its entries, as text."""
    from ..history.kernel_folders import cache_states
    from ..history.run_list import size_text

    found = {}
    for each in cache_states(libraries):
        if each.path is None:
            found[each.cache.name] = "none: the user's cache folder cannot be used"
            continue
        entries = f"{each.entries} {'entry' if each.entries == 1 else 'entries'}"
        why = f" ({each.cache.variable})" if each.foreign else ""
        found[each.cache.name] = f"{each.path}{why}, {size_text(each.size)}, {entries}"
    return found


def limit_facts(limits: MachineLimits | None, damage: str | None = None) -> dict[str, str]:
    """The measured limits as text.

    Args:
        limits: The limits; None if they are not known.
        damage: Why the stored limits cannot be read.
    """
    if limits is None:
        return {"not known": f"{damage}; measure again: `sgd doctor --measure`" if damage else limits_file.ADVICE}
    found = {f"{name} products": f"{count(rate)}FLOP/s" for name, rate in limits.matrix.items()}
    found["copy in memory"] = f"{count(limits.copy)}B/s read and written"
    if limits.host_to_device:
        found["host to device"] = f"{count(limits.host_to_device)}B/s"
    found["disk of the model cache"] = f"{count(limits.disk)}B/s read" if limits.disk else "not measured"
    threads = f", {limits.threads} thread{'s' * (limits.threads != 1)}" if limits.threads else ""
    return {**found, "measured": f"{limits.measured}, {limits.card}, torch {limits.torch}{threads}"}


def machine() -> dict[str, str]:
    """Collect facts about system, processor, memory, disk and GPUs, as text."""
    import torch

    found = {
        "system": platform.platform(),
        "python": platform.python_version(),
        "cores": f"{os.cpu_count()}, torch uses {torch.get_num_threads()} threads",
        "memory": f"{count(memory_bytes('cpu'), 'B', 1024)} available",
        "disk here": f"{count(shutil.disk_usage(Path.cwd()).free, 'B', 1024)} free",
    }
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            device = torch.cuda.get_device_properties(index)
            memory = count(device.total_memory, "B", 1024)
            found[f"gpu {index}"] = f"{device.name}, {memory}, compute capability {device.major}.{device.minor}"
    elif torch.version.cuda is None:
        found["gpu"] = "none: this torch was built without CUDA"
    else:
        found["gpu"] = f"none: torch (CUDA {torch.version.cuda}) finds no NVIDIA GPU or driver"
    return found
