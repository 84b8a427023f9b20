"""recipe_source: find the recipe in a record, a run's folder, or a file that a run wrote, and open its workflow.

A recipe is data from anywhere. The names of its files are keys of its texts: none of them is read from this disk, and
none is written. Only files of installed libraries (`sgd:…`) are read, as for every workflow.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ...contract.diagnostics import Diagnostic
from ...contract.errors import NodeError, Problems, UnreadableFile
from ...contract.json_reader import read_json
from ...contract.node_library import NodeLibrary
from ...contract.record_version import check_version
from ...contract.source_spans import Source
from ...contract.text_tables import shortened
from ...contract.workflow_folders import bundled_name, bundled_path
from ...language.document import Document, kind_of
from ...language.literals import Given
from ...language.recipe import Recipe, parse_recipe, recipe_of
from .expand import Files

RECORD = "run.json"
LARGEST_RECORD = 256 << 20
"""Bytes of a record; a run of 100,000 steps writes some tens of megabytes."""


@dataclass(frozen=True)
class Found:
    """A recipe, and where it was found.

    Attributes:
        recipe: The recipe.
        place: The file with the recipe, as messages show it.
        record: The record that it stands in; None for a picture or a clip.
        path: The file with the recipe.
    """

    recipe: Recipe
    place: str
    path: Path
    record: Mapping[str, Any] | None = None

    def inputs(self) -> dict[str, Given]:
        """Values of inputs. Relative paths in them are relative to the current folder."""
        return self._given(self.recipe.inputs, "inputs")

    def settings(self) -> dict[str, Given]:
        """Values of `--set`."""
        return self._given(self.recipe.settings, "set")

    def _given(self, values: Mapping[str, Any], key: str) -> dict[str, Given]:
        """Values for `check`. A record keeps whole paths, of which the recipe has the file name only."""
        whole = (self.record or {}).get(key)
        whole = whole if isinstance(whole, Mapping) else {}
        return {name: Given(whole.get(name, value), False, Path.cwd()) for name, value in values.items()}


def recipe_at(file: str | Path, libraries: Iterable[NodeLibrary]) -> Found | None:
    """The recipe of a record, of the folder of a run, or in a file that a node wrote.

    Args:
        file: A path.
        libraries: Libraries that may know the file's kind.

    Returns:
        None for every other file, such as a workflow, and for a path without a file.

    Raises:
        Problems: If the file is damaged, or is of a kind that carries recipes but has none.
    """
    path, place = Path(file), shortened(file, 200)
    try:
        if path.is_dir() and (path / RECORD).is_file():
            path, place = path / RECORD, str(Path(file) / RECORD)
        elif not path.is_file():
            return None
        if path.suffix == ".json":
            return _in_record(path, place)
        for library in libraries:
            text = library.recipe_text(path)
            if text:
                return Found(parse_recipe(text, place), place, path)
            if text is not None and all(each.foreign_file(path) is None for each in libraries):
                raise UnreadableFile(
                    f"{place} carries no recipe of sgd",
                    help="it was written with --no-metadata or by another program, or a program that changed it "
                    f"dropped the recipe; the {RECORD} beside it has one too",
                )
    except NodeError as error:
        raise Problems([replace(error.diagnostic, place=None)]) from None
    except (OSError, ValueError):
        return None  # `find` says why
    return None


def _in_record(path: Path, place: str) -> Found | None:
    """The recipe in a record; None if a JSON file is no record.

    Raises:
        UnreadableFile: If a file `run.json` cannot be read, or a record has no recipe or another version.
    """
    try:
        value = read_json(path, place, LARGEST_RECORD)
    except UnreadableFile:
        if path.name == RECORD:
            raise
        return None  # a workflow may have this suffix
    if isinstance(value, dict) and isinstance(value.get("recipe"), int):
        return Found(recipe_of(value, place), place, path)  # a recipe alone
    if not isinstance(value, dict) or "record" not in value:
        if path.name == RECORD:
            raise UnreadableFile(f"{place} is not the record of a run")
        return None
    check_version(value, place)
    if not isinstance(value.get("recipe"), dict):
        raise UnreadableFile(f"{place} has no recipe", help="an older sgd wrote it, which kept none")
    return Found(recipe_of(value["recipe"], place), place, path, value)


def open_recipe(found: Found, files: Files) -> Document:
    """Parse the workflow of a recipe.

    Raises:
        Problems: If the workflow cannot be read or parsed.
    """
    first, folder = found.recipe.files[0], Path.cwd()
    files.held = {
        _place(folder, each.name): each.text
        for each in found.recipe.files
        # A file of a library is a reference; a text cannot stand for it.
        if each.text is not None and not (os.path.isabs(each.name) and bundled_name(Path(each.name)))
    }
    files.problems += _changed(found)
    if first.text is None:
        path = bundled_path(first.name)
        if path is None or not path.is_file():
            message = f"{found.place}: its workflow is {first.name}, which this installation does not have"
            raise Problems([Diagnostic("composite-not-found", message, help="install the library or the sgd it names")])
        files.libraries[first.name] = f"{first.name.partition(':')[0]}:"
        return files.open(path, first.name)
    name = f"{found.place}:{first.name}"
    files.libraries[name] = f"{found.place}:"
    document = files.parse(Source(name, _place(folder, first.name), first.text))
    if document.name == Path(name).stem:  # the file does not give its name
        document.name = Path(first.name).stem
    return document


def _place(folder: Path, name: str) -> Path:
    """The path at which a workflow in `folder` would look for a file of this name."""
    return Path(os.path.normpath(folder / name))


def _changed(found: Found) -> list[Diagnostic]:
    """Warnings about bundled files that are not what they were when the recipe was made."""
    warnings = []
    for each in found.recipe.files:
        path = bundled_path(each.name) if each.sha256 is not None and kind_of(each.name) == "library" else None
        try:
            text = path.read_bytes().decode("utf-8-sig") if path is not None else None
        except (OSError, ValueError):
            text = None
        if text is not None and hashlib.sha256(text.encode()).hexdigest() != each.sha256:
            message = f"{each.name} has changed since {found.place} was made"
            help = "the result may differ; the versions in the recipe name the installation that had the old file"
            warnings.append(Diagnostic("version", message, help=help, severity="warning"))
    return warnings
