"""`sgd doctor`: what this machine has of what the node library can use, and why not what it has not."""

from __future__ import annotations

import os
import platform
import shutil
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from ...graph.contract.device import memory_bytes
from ...graph.contract.text_tables import count
from ..models.attention import backends

LIBRARIES = (
    *("torch", "diffusers", "transformers", "accelerate", "huggingface_hub", "safetensors", "av"),
    *("peft", "cache-dit"),  # optional
)


def doctor() -> dict[str, dict[str, str]]:
    """Facts about this machine by section."""
    return {
        "Machine": _machine(),
        "Libraries": {name: _version(name) or "not installed" for name in LIBRARIES},
        "Attention": backends.notes(),
        "Model hub": _hub(),
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _machine() -> dict[str, str]:
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


def _hub() -> dict[str, str]:
    from huggingface_hub import constants

    cache = Path(constants.HF_HUB_CACHE)
    found = {"endpoint": constants.ENDPOINT, "cache": str(cache)}
    if cache.is_dir():
        models = [p for p in cache.iterdir() if p.name.startswith("models--")]
        found["cached models"] = str(len(models))
        found["disk of the cache"] = f"{count(shutil.disk_usage(cache).free, 'B', 1024)} free"
    if constants.HF_HUB_OFFLINE:
        found["access"] = "offline (HF_HUB_OFFLINE is set)"
        return found
    found["access"] = _reach(constants.ENDPOINT)
    return found


def _reach(endpoint: str) -> str:
    """Whether the hub answers, in words."""
    from urllib.error import HTTPError, URLError
    from urllib.request import Request, urlopen

    try:
        with urlopen(Request(endpoint, method="HEAD"), timeout=5) as answer:
            return f"reachable ({answer.status})"
    except HTTPError as error:
        return f"reachable ({error.code})"
    except (URLError, OSError, ValueError) as error:
        return f"not reachable: {getattr(error, 'reason', error)}"
