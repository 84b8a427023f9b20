"""`sgd doctor`: the machine itself, and the facts that node libraries add."""

from __future__ import annotations

import json
import os
import platform
import shutil
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path

from ...contract.constants import DONE
from ...contract.device import memory_bytes
from ...contract.node_library import NodeLibrary
from ...contract.text_tables import count
from ...language.registry import installed
from ..fitted_tables import fitted
from ..terminal import show, stdout_width


def add_arguments(to: ArgumentParser, _: Sequence[NodeLibrary]) -> None:
    """Add the arguments of `sgd doctor`."""
    to.add_argument("--json", action="store_true", help="print the facts as JSON on stdout")


def command(arguments: Namespace) -> int:
    """`sgd doctor`."""
    found: dict[str, Mapping[str, str]] = {"Machine": machine()}
    for library in installed().libraries.values():
        found.update(library.machine_facts())
    if arguments.json:
        print(json.dumps(found, indent=1))
        return DONE
    for section, facts in found.items():
        show(section)
        rows = [[f"  {name}", value] for name, value in facts.items()]
        show("\n".join(fitted(rows, stdout_width(), flexible=1, wrap=True)))
    return DONE


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
