"""A run that is compared: its record, its folder, and the files of its recipe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from ...contract.errors import UnreadableFile
from ..report.run_record import RunRecord, read_run

NO_ROLES = ("recipe", "files", "inputs", "set", "options", "device", "versions", "libraries")
"""Keys of a recipe that are no roles of files."""


class RecordedFile(BaseModel):
    """A file of a recipe: its text, or the hash of its bytes. `source` is the place that has a file of this name."""

    model_config = ConfigDict(frozen=True)

    name: str
    source: str | None = None
    text: str | None = None
    sha256: str | None = None

    @property
    def label(self) -> str:
        """The file for people, such as `owner/name/part/config.json`."""
        return "/".join(filter(None, (self.source, self.name)))


class RecordedRecipe(BaseModel):
    """The key `recipe`: workflow files, versions of packages, and the files that were read, by role."""

    model_config = ConfigDict(frozen=True)

    files: list[RecordedFile] = []
    versions: dict[str, Any] = {}
    used: dict[str, list[RecordedFile]] = {}


@dataclass(frozen=True)
class ComparedRun:
    """A run.

    Attributes:
        name: The run as the user named it.
        folder: Its folder. Paths of outputs are relative to it.
        record: Its record.
        recipe: The files of its recipe; None if the record has no recipe.
    """

    name: str
    folder: Path
    record: RunRecord
    recipe: RecordedRecipe | None

    @property
    def run_seconds(self) -> float:
        """Seconds of running nodes and saving files: without imports, compilation and loading, which caches change."""
        return self.record.phases.get("run", 0.0) + self.record.phases.get("save", 0.0)


def compared_run(name: str) -> ComparedRun:
    """Read a run.

    Args:
        name: The folder of a run, or its `run.json`.

    Raises:
        UnreadableFile: If there is no record, or it cannot be read, is of another version, or is none.
    """
    found = read_run(name)
    recipe = found.plain.get("recipe")
    if recipe is None:
        return ComparedRun(name, found.folder, found.record, None)
    try:
        read = RecordedRecipe.model_validate(_by_role(recipe))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, ("recipe", *first["loc"])))
        raise UnreadableFile(f"{name} is not the record of a run: `{place}`: {first['msg']}") from error
    return ComparedRun(name, found.folder, found.record, read)


def _by_role(recipe: Any) -> Any:
    if not isinstance(recipe, Mapping):
        return recipe
    used = {key: value for key, value in recipe.items() if key not in NO_ROLES}
    return {"files": recipe.get("files", []), "versions": recipe.get("versions", {}), "used": used}
