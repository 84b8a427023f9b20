"""`sgd doctor`: installed packages, attention backends with the reason if one cannot be used, and the model hub."""

from __future__ import annotations

import shutil
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from ...graph.contract.text_tables import count
from ..models.attention import backends

LIBRARIES = (
    *("torch", "diffusers", "transformers", "accelerate", "huggingface_hub", "safetensors", "gguf", "av"),
    "cache-dit",  # optional
)


def machine_facts() -> dict[str, dict[str, str]]:
    """Versions, attention backends and access to the hub, by section."""
    return {
        "Libraries": {name: _version(name) or "not installed" for name in LIBRARIES},
        "Attention": backends.notes(),
        "Model hub": _hub(),
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


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
    """Ask the hub, and return text that says whether it answers."""
    from urllib.error import HTTPError, URLError
    from urllib.request import Request, urlopen

    try:
        with urlopen(Request(endpoint, method="HEAD"), timeout=5) as answer:
            return f"reachable ({answer.status})"
    except HTTPError as error:
        return f"reachable ({error.code})"
    except (URLError, OSError, ValueError) as error:
        return f"not reachable: {getattr(error, 'reason', error)}"
