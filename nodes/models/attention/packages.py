"""Facts about Python packages without importing them: versions, and the CUDA version of compiled ones."""

from __future__ import annotations

import importlib.util
import json
import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


def installed(package: str, module: str) -> str | None:
    """Version of an installed package whose module can be found, None without it.

    A module in another is looked for as a folder: finding it would import the other, which may import torch.
    """
    outer, *inner = module.split(".")
    if not any(Path(at, *inner).is_dir() for at in _folders(outer)) and (inner or not _found(outer)):
        return None
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def older(found: str, least: str) -> bool:
    """Whether a version comes before another; false if it cannot be read."""
    from packaging.version import InvalidVersion, Version

    try:
        return Version(found) < Version(least)
    except InvalidVersion:
        return False


def built_for(module: str) -> str | None:
    """The CUDA version, such as `13.0`, that torch or xformers was built for; None if that is not known, or none."""
    for folder in _folders(module):
        try:
            if module == "torch":
                found = re.search(r"^cuda.*= *['\"](\d+\.\d+)", Path(folder, "version.py").read_text(), re.MULTILINE)
                return found and found.group(1)
            cuda = json.loads(Path(folder, "cpp_lib.json").read_text())["version"]["cuda"]  # 1208 for 12.8
            return cuda and f"{cuda // 100}.{cuda % 100}"
        except (OSError, ValueError, LookupError, TypeError):
            continue
    return None


def _found(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ValueError:
        return False


def _folders(module: str) -> list[str]:
    """The folders of a package, not imported; none for a module that is a file or not there."""
    try:
        spec = importlib.util.find_spec(module)
    except ValueError:
        return []
    return list(spec.submodule_search_locations or ()) if spec else []
