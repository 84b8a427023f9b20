"""Notes the files of a model for the recipe of the run: weights, configurations, tokenizers. Torch-free."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ....graph.contract.node import Run
from ....graph.contract.workflow_folders import bundled_name
from . import hub
from .component_files import VOCABULARIES, VOCABULARY_ENDINGS
from .repository import Repository

ROLE = "weights"
"""The recipe's key for these files."""

TOKENIZER_FILES = (*VOCABULARIES, "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "merges.txt")


def note_configs(repository: Repository, run: Run) -> None:
    """Note model_index.json and the configurations of all components, which decide what the nodes do."""
    parts = (repository.config_file(part) for part in repository.components)
    _note(repository, [repository.folder / "model_index.json", *(path for path in parts if path is not None)], run)


def note_component(repository: Repository, part: str, weights: Iterable[Path], run: Run) -> None:
    """Note the files of a component that is loaded.

    Args:
        repository: Its repository.
        part: Its name.
        weights: Its weight files.
        run: The run.
    """
    folder = repository.folder / part
    names = [name for name in TOKENIZER_FILES if (folder / name).is_file()] if "token" in part else []
    others = [path for ending in VOCABULARY_ENDINGS for path in folder.glob(f"*{ending}")] if "token" in part else []
    config = repository.config_file(part)
    _note(repository, [*weights, *(folder / name for name in names), *others, *([config] if config else [])], run)


def note_file(source: str, file: Path, run: Run) -> None:
    """Note a file that stands alone, such as a checkpoint or a LoRA.

    Args:
        source: The source as the workflow names it: a path, or a name on the hub.
        file: The file.
        run: The run.
    """
    shown: str | None = None
    name = file.name
    named, bundled = hub.hub_file(source), bundled_name(file)
    if bundled is not None:
        shown, _, name = bundled.rpartition("/")
    elif named is not None:
        shown, name = named
    elif hub.is_hub_id(source):
        shown = source
    run.used_file(file, ROLE, source=shown or None, name=name, sha256=hub.blob_sha256(file))


def _note(repository: Repository, files: Iterable[Path], run: Run) -> None:
    source = repository.source
    if repository.kind != "hub":
        source = bundled_name(repository.folder) or repository.folder.name
    for file in files:
        name = file.relative_to(repository.folder).as_posix()
        run.used_file(file, ROLE, source=source, name=name, sha256=hub.blob_sha256(file))
