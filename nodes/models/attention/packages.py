"""Versions and CUDA builds of Python packages, read without importing the packages."""

from __future__ import annotations

import importlib.util
import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from ....graph.contract.errors import UnreadableFile
from ....graph.contract.json_reader import read_json


def installed(package: str, module: str) -> str | None:
    """Version of an installed package; None if the package or its module is missing.

    A submodule is searched as a folder. `find_spec` would import its parent, which may import torch.
    """
    outer, *inner = module.split(".")
    if not any(Path(at, *inner).is_dir() for at in _folders(outer)) and (inner or not _found(outer)):
        return None
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def older(found: str, least: str) -> bool:
    """Whether version `found` is older than `least`; false if `found` is not a valid version."""
    from packaging.version import InvalidVersion, Version

    try:
        return Version(found) < Version(least)
    except InvalidVersion:
        return False


def built_for(module: str) -> str | None:
    """The CUDA version of the torch or xformers build, such as `13.0`; None for a CPU build or if unknown."""
    for folder in _folders(module):
        try:
            if module == "torch":
                text = Path(folder, "version.py").read_text(encoding="utf-8")
                found = re.search(r"^cuda.*= *['\"](\d+\.\d+)", text, re.MULTILINE)
                return found and found.group(1)
            cuda = read_json(Path(folder, "cpp_lib.json"))["version"]["cuda"]  # 1208 for 12.8
            return cuda and f"{cuda // 100}.{cuda % 100}"
        except (OSError, ValueError, LookupError, TypeError, UnreadableFile):
            continue
    return None


def _found(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ValueError:
        return False


def _folders(module: str) -> list[str]:
    """The folders of a package, found without importing it; empty for a single-file or missing module."""
    try:
        spec = importlib.util.find_spec(module)
    except ValueError:
        return []
    return list(spec.submodule_search_locations or ()) if spec else []
