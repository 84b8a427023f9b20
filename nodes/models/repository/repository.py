"""A model repository in diffusers' layout: model_index.json and one folder for each component. Torch-free.

A repository is searched in this order: as a folder, in the local cache of the hub, among the configurations of this
package (`configs/`; no weights), on the hub.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ....graph.contract import json_reader
from ....graph.contract.errors import NodeError, UnreadableFile
from ....graph.contract.node import Run
from ....graph.contract.ports import show
from ....graph.contract.text_tables import shortened
from ...support.file_contents import mistaken
from ...support.input_files import nearby, shown
from . import hub

BUNDLED = Path(__file__).parent / "configs"
DAMAGED = "the copy is damaged: download the model again"
COMPONENT_NAMES = (
    *("transformer", "transformer_2", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "vae", "scheduler"),
    *("image_encoder", "image_processor", "processor", "feature_extractor"),
)
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
            usual = "scheduler_config" if "scheduler" in part else "config"
            name = "preprocessor_config" if "processor" in part or "extractor" in part else usual
            raise NodeError(
                f"{self.source}: the component {part} has no config file ({part}/{name}.json)",
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
                f"{self.source} has no component {part} in its model_index.json",
                help=f"it lists {', '.join(sorted(self.components)) or 'no component'}",
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
            raise self.no_component_folder(part)
        return folder

    def no_component_folder(self, part: str) -> NodeError:
        """The error of a component whose folder is missing."""
        return NodeError(
            f"{self.source} has no folder {part}, but its model_index.json lists it",
            help="the copy is incomplete: download the model again",
        )


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
        raise no_folder(source)
    snapshot = hub.fetch(source, revision, hub.CONFIGS, run.progress)
    if not (snapshot / "model_index.json").is_file():
        raise NodeError(
            f"{source} is not in diffusers' layout: it has no model_index.json",
            help="look for a repository of this model with a name that ends in -Diffusers",
        )
    return _read(source, revision, "hub", snapshot)


def no_folder(source: str) -> NodeError:
    """The error of a local source that is not there."""
    cure = "give a folder that holds model_index.json, or the name of a repository on the hub (owner/name)"
    similar = nearby(Path(source).expanduser()) if "/" in source else None
    return NodeError(
        f"there is no folder {shown(source) if Path(source).is_absolute() else source}", help=similar or cure
    )


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object from a file.

    Raises:
        NodeError: If the file cannot be read or does not hold a JSON object.
    """
    try:
        content = json_reader.read_json(path)
    except UnreadableFile as error:
        known = mistaken(_start(path))
        if known is not None:
            raise NodeError(f"{path} is not JSON: it is {known.what}", help=known.cure) from error
        raise NodeError(str(error), help=DAMAGED) from error
    if not isinstance(content, dict):
        raise NodeError(f"{path} does not hold a JSON object", help=DAMAGED)
    return content


def _is_entry(entry: Any) -> bool:
    """Whether an entry names a component, or says that there is none."""
    if entry is None:
        return True
    pair = isinstance(entry, list) and len(entry) == 2
    return pair and (all(isinstance(e, str) for e in entry) or all(e is None for e in entry))


def _start(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(80)
    except (OSError, ValueError):
        return b""


def _read(source: str, revision: str | None, kind: Literal["folder", "hub", "bundled"], folder: Path) -> Repository:
    path = folder / "model_index.json"
    if not path.is_file():
        hint = "give the folder that holds model_index.json"
        if (folder / "config.json").is_file():
            hint += f": {folder.name} is one component, and its parent folder may be the model"
        raise NodeError(f"{source} is not a model in diffusers' layout: it has no model_index.json", help=hint)
    index = read_json(path)
    if not isinstance(index.get("_class_name"), str) or not index["_class_name"]:
        raise NodeError(f"{path} names no pipeline class (`_class_name`)", help="give a model_index.json of diffusers")
    for name, entry in index.items():
        if name in COMPONENT_NAMES and not _is_entry(entry):
            raise NodeError(
                f"{path}: `{name}` is {show(entry)}, not a library and a class",
                help=f'write ["library", "class"], or [null, null] for a model without {name}',
            )
    return Repository(source, revision, kind, folder, index)
