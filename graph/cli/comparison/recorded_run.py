"""A run as its record tells of it: the parts of `run.json` that a comparison reads."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from ...contract.errors import UnreadableFile
from ...contract.json_reader import read_json
from ...runtime.context import RECORD
from ...runtime.record import RECORD_VERSION

LARGEST = 256 << 20
"""Bytes of a record; a run of 100,000 steps writes some tens of megabytes."""


class _Part(BaseModel):
    """Keys that are not listed are left out: a record may have more of them."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class RecordedNode(_Part):
    """A row of `nodes`. Rows in brackets, such as `(load)`, stand for time outside of nodes."""

    name: str
    type: str = ""
    calls: int = 0
    seconds: float
    device_seconds: float | None = None
    peak_bytes: int | None = None


class RecordedFile(_Part):
    """A file of a recipe: its text, or the hash of its bytes. `source` is the place that has a file of this name."""

    name: str
    source: str | None = None
    text: str | None = None
    sha256: str | None = None


class RecordedRecipe(_Part):
    """The key `recipe`: workflow files, versions of packages, and the files that were read, by role."""

    files: list[RecordedFile] = []
    versions: dict[str, Any] = {}
    used: dict[str, list[RecordedFile]] = {}


NO_ROLES = ("recipe", "files", "inputs", "set", "options", "device", "versions", "libraries")
"""Keys of a recipe that are no roles of files."""


class RecordedWorkflow(_Part):
    """The key `workflow`."""

    name: str
    file: str | None = None
    sha256: str = ""


class RecordedRun(_Part):
    """The record of a run.

    Attributes:
        path: The file of the record.
    """

    path: Path
    sgd: str
    status: Literal["done", "failed", "interrupted"]
    workflow: RecordedWorkflow
    seconds: float
    phases: dict[str, float]
    nodes: list[RecordedNode]
    inputs: dict[str, Any] = {}
    set: dict[str, Any] = {}
    options: dict[str, Any] = {}
    environment: dict[str, Any] = {}
    outputs: dict[str, Any] = {}
    warnings: list[str] = []
    peak_bytes: int | None = None
    error: str | None = None
    recipe: RecordedRecipe | None = None

    @property
    def folder(self) -> Path:
        """The folder of the run. Paths of outputs are relative to it."""
        return self.path.parent

    @property
    def run_seconds(self) -> float:
        """Seconds of running nodes and saving files: without imports, compilation and loading, which caches change."""
        return self.phases.get("run", 0.0) + self.phases.get("save", 0.0)


def record_path(path: Path) -> Path:
    """The record's file of a run that is named by its folder or by the file."""
    return path / RECORD if path.is_dir() else path


def read_run(name: str) -> RecordedRun:
    """Read the record of a run.

    Args:
        name: The folder of a run, or its `run.json`.

    Raises:
        UnreadableFile: If there is none, or it is not the record of a run of this version.
    """
    path = record_path(Path(name))
    if path != Path(name) and not path.exists():
        raise UnreadableFile(f"{name} is not the folder of a run: it has no {RECORD}", help="name a folder with one")
    found = read_json(path, most=LARGEST)
    if not isinstance(found, Mapping) or "record" not in found:
        raise UnreadableFile(f"{path} is not the record of a run", help=f"a run writes it, as {RECORD}")
    if found["record"] != RECORD_VERSION:
        message = f"{path} is a record of version {found['record']!r}, and this sgd reads version {RECORD_VERSION}"
        raise UnreadableFile(message, help="run the workflow again, or use the sgd that wrote it")
    recipe = found.get("recipe")
    if isinstance(recipe, Mapping):
        used = {key: value for key, value in recipe.items() if key not in NO_ROLES}
        recipe = {"files": recipe.get("files", []), "versions": recipe.get("versions", {}), "used": used}
    try:
        return RecordedRun.model_validate({**found, "recipe": recipe, "path": path})
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise UnreadableFile(f"{path} is not the record of a run: {place}: {first['msg']}") from None
