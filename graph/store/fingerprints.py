"""Hashes of everything outside of the workflow file that decides a result: code, packages, the card, and files."""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ..contract.node import NodeType
from ..contract.node_library import NodeLibrary

FileHash = Callable[[Path], str]
DRIVER = Path("/proc/driver/nvidia/gpus")
PATIENCE = 10.0
"""Seconds to wait for `nvidia-smi`."""


def digest(*parts: Any) -> str:
    """SHA-256 of plain data, in hexadecimal."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), default=repr)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def code_of(type: NodeType) -> str:
    """A hash of the Python code of the package of a node type, or of its file if it stands in no package."""
    return _code(_place(type)[1])


def codes_of(types: Iterable[NodeType]) -> dict[str, str]:
    """The hashes of `code_of`, by the name of the package, such as `sgd.nodes`, or of the file."""
    found: dict[str, list[str]] = {}
    for name, path in sorted({_place(type) for type in types}):
        found.setdefault(name, []).append(_code(path))
    return {name: " ".join(sorted(hashes)) for name, hashes in found.items()}


def _place(type: NodeType) -> tuple[str, Path]:
    """The name and the folder of the package of a node type, or the name and the path of its file."""
    function = inspect.unwrap(type.function)
    names = function.__module__.split(".")
    root = ".".join(names[: 2 if names[0] == "sgd" else 1])
    found = getattr(sys.modules.get(root), "__file__", None)
    if found is not None and Path(found).name == "__init__.py":
        return root, Path(found).parent
    file = Path(function.__code__.co_filename)
    return file.name, file


@cache
def _code(path: Path) -> str:
    try:
        files = sorted(path.rglob("*.py")) if path.is_dir() else [path]
        return digest(*((str(file.relative_to(path.parent)), _bytes(file)) for file in files))
    except OSError:
        return digest(str(path))


def forget_code() -> None:
    """Hash Python files again that may have changed since."""
    _code.cache_clear()


def _bytes(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def packages_of(libraries: Iterable[NodeLibrary]) -> dict[str, str | None]:
    """The versions of sgd and of the packages of node libraries; None for one that is not installed."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for name in ("sgd", *(name for library in libraries for name in library.packages)):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def machine(device: str) -> str:
    """The name of the processor or the card of a run. Imports no package for it."""
    return _processor() if device == "cpu" else f"{os.environ.get('CUDA_VISIBLE_DEVICES', '')} {_card()}"


@cache
def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    except OSError:
        model = platform.processor()
    return f"cpu {platform.machine()} {model}".strip()


@cache
def _card() -> str:
    try:
        infos = [file.read_text(encoding="utf-8") for file in sorted(DRIVER.glob("*/information"))]
    except OSError:
        infos = []
    models = [line.partition(":")[2].strip() for info in infos for line in info.splitlines() if "Model" in line]
    if models:
        return ", ".join(models)
    program = shutil.which("nvidia-smi")
    if program is None:
        return "unknown"
    asked = [program, "--query-gpu=name", "--format=csv,noheader"]
    try:
        answer = subprocess.run(asked, capture_output=True, text=True, timeout=PATIENCE, check=True)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return ", ".join(answer.stdout.split("\n")).strip(", ")


class Files:
    """Hashes of files and folders.

    Args:
        libraries: Libraries that know names of sources.
        file_hash: Gives the SHA-256 of a file.
    """

    def __init__(self, libraries: Iterable[NodeLibrary], file_hash: FileHash) -> None:
        self.libraries, self.file_hash = tuple(libraries), file_hash
        self._known: dict[Path, str | None] = {}

    def of(self, path: Path) -> str | None:
        """A hash of every byte of a file, or of all files of a folder; None if one cannot be read."""
        if path not in self._known:
            try:
                self._known[path] = self._hash(path)
            except (OSError, ValueError):
                self._known[path] = None
        return self._known[path]

    def of_source(self, source: str, arguments: Mapping[str, Any]) -> str | None:
        """The hash of a path, or of the files that a name stands for."""
        if os.path.isabs(source):
            return self.of(Path(source))
        found = (library.source_path(source, arguments) for library in self.libraries)
        path = next((path for path in found if path is not None), None)
        return self.of(path) if path is not None else None

    def _hash(self, path: Path) -> str | None:
        if path.is_file():
            return self.file_hash(path)
        if not path.is_dir():
            return None
        found = []
        for folder, folders, names in os.walk(path):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            for name in sorted(names):
                file = Path(folder) / name
                found.append((str(file.relative_to(path)), self.file_hash(file)))
        return digest(*found)
