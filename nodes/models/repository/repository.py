"""A model repository in diffusers' layout: model_index.json and one folder for each component. Torch-free.

A repository is searched in this order: as a folder, in the local cache of the hub, among the configurations of this
package (`configs/`; no weights), on the hub.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ....graph.contract.errors import NodeError
from ....graph.contract.node import Run
from ....graph.contract.text_tables import shortened
from . import hub

BUNDLED = Path(__file__).parent / "configs"
CONFIG_NAMES = ("config.json", "scheduler_config.json", "tokenizer_config.json", "preprocessor_config.json")


@dataclass(frozen=True)
class Repository:
    """The location of a model and the content of its model_index.json.

    Attributes:
        source: Source in the workflow file: a folder or a hub id.
        revision: Requested revision; only the hub uses it.
        kind: `folder`, `hub` (a snapshot in the local cache) or `bundled` (configurations only).
        folder: The folder with model_index.json and one folder for each component.
        index: The content of model_index.json.
    """

    source: str
    revision: str | None
    kind: Literal["folder", "hub", "bundled"]
    folder: Path
    index: Mapping[str, Any]

    @property
    def pipeline(self) -> str:
        """Name of the pipeline class in diffusers. It determines the family."""
        return str(self.index["_class_name"])

    @property
    def commit(self) -> str | None:
        """The commit of a hub snapshot; None for other kinds."""
        return self.folder.name if self.kind == "hub" else None

    @property
    def components(self) -> dict[str, tuple[str, str]]:
        """Library and class of each component that this repository has."""
        return {
            name: (entry[0], entry[1])
            for name, entry in self.index.items()
            if isinstance(entry, list) and len(entry) == 2 and all(isinstance(e, str) for e in entry)
        }

    def config_file(self, part: str) -> Path | None:
        return next((f for n in CONFIG_NAMES if (f := self.folder / part / n).is_file()), None)

    def config(self, part: str) -> dict[str, Any]:
        """Read the configuration of a component, unchanged from its file. `model_index` gives model_index.json.

        Raises:
            NodeError: If the repository has no such component, or its file is missing or not a JSON object.
        """
        if part == "model_index":
            return dict(self.index)
        self.entry(part)
        path = self.config_file(part)
        if path is None:
            raise NodeError(
                f"{self.source}: the component {part} has no config file ({part}/config.json)",
                help="the copy is incomplete: download the model again",
            )
        return read_json(path)

    def entry(self, part: str) -> tuple[str, str]:
        """Library and class of a component.

        Raises:
            NodeError: If the repository has no such component.
        """
        try:
            return self.components[part]
        except KeyError:
            raise NodeError(
                f"{self.source} has no component {part}",
                help=f"its model_index.json lists {', '.join(sorted(self.components))}",
            ) from None

    def bring(self, part: str, variant: str | None, run: Run) -> Path:
        """Find the folder of a component with all its files. Files that are missing in the cache are downloaded.

        Raises:
            NodeError: If the files cannot be downloaded, or the folder is missing.
        """
        self.entry(part)
        if self.kind == "hub":
            hub.fetch(self.source, self.commit, hub.component_patterns(part, variant), run.progress)
        folder = self.folder / part
        if not folder.is_dir():
            raise NodeError(
                f"{self.source} has no folder {part}, but its model_index.json lists it",
                help="the copy is incomplete: download the model again",
            )
        return folder


def find(source: str, revision: str | None = None, *, bundled: bool = True) -> Repository | None:
    """Find a repository whose configurations are on this disk, without the network; None if there is none.

    Raises:
        NodeError: If `source` is a file, or a folder that is not a model.
    """
    try:
        folder = Path(source).expanduser()
        is_folder, is_file = folder.is_dir(), folder.is_file()
    except (OSError, ValueError, RuntimeError) as error:
        raise NodeError(
            f"{shortened(source)} is not a path", help="give a folder, or the name of a repository"
        ) from error
    if is_folder:
        return _read(source, revision, "folder", folder)
    if is_file:
        raise NodeError(
            f"{source} is a file; a model is a folder in diffusers' layout",
            help="give the folder that holds model_index.json",
        )
    snapshot = hub.cached(source, revision)
    if snapshot is not None:
        repository = _read(source, revision, "hub", snapshot)
        if all(repository.config_file(part) for part in repository.components):
            return repository  # otherwise another program downloaded only a part
    shipped = BUNDLED / source
    if bundled and hub.is_hub_id(source) and (shipped / "model_index.json").is_file():
        return _read(source, revision, "bundled", shipped)
    return None


def open_repository(source: str, revision: str | None, run: Run, *, configs_only: bool) -> Repository:
    """Open a repository. Its configurations are downloaded if necessary.

    Args:
        source: A folder or a hub id.
        revision: Branch, tag or commit on the hub.
        run: Receives progress and warnings.
        configs_only: Whether configurations are enough (a plan, dummy weights). Then those on this disk are used.

    Raises:
        NodeError: If there is no such model, or the hub cannot be reached.
    """
    found = find(source, revision, bundled=configs_only)
    if found is not None and (configs_only or found.kind == "folder"):
        return found
    if not hub.is_hub_id(source):
        raise NodeError(
            f"there is no folder {source}",
            help="give a folder that holds model_index.json, or the name of a repository on the hub (owner/name)",
        )
    snapshot = hub.fetch(source, revision, hub.CONFIGS, run.progress)
    if not (snapshot / "model_index.json").is_file():
        raise NodeError(
            f"{source} is not in diffusers' layout: it has no model_index.json",
            help="look for a repository of this model with a name that ends in -Diffusers",
        )
    return _read(source, revision, "hub", snapshot)


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object from a file.

    Raises:
        NodeError: If the file cannot be read or does not hold a JSON object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise NodeError(f"cannot read {path}: {error}", help="the copy is damaged: download the model again") from error
    if not isinstance(content, dict):
        raise NodeError(f"{path} does not hold a JSON object", help="the copy is damaged: download the model again")
    return content


def _read(source: str, revision: str | None, kind: Literal["folder", "hub", "bundled"], folder: Path) -> Repository:
    path = folder / "model_index.json"
    if not path.is_file():
        hint = "give the folder that holds model_index.json"
        if (folder / "config.json").is_file():
            hint += f": {folder.name} is one component, and its parent folder may be the model"
        raise NodeError(f"{source} is not a model in diffusers' layout: it has no model_index.json", help=hint)
    index = read_json(path)
    if not isinstance(index.get("_class_name"), str):
        raise NodeError(f"{path} names no pipeline class (`_class_name`)", help="give a model_index.json of diffusers")
    return Repository(source, revision, kind, folder, index)
