"""The part of a recipe that the workflow and its values decide, and what a recipe needs that it cannot bring along."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..contract.diagnostics import Diagnostic
from ..contract.ports import Type
from ..contract.workflow_folders import bundled_name
from ..language.document import Document
from ..language.library_objects import STANDARD
from ..language.recipe import Recipe, RecipeFile, UsedFile
from ..language.registry import Library
from .frontend.expand import Files
from .frontend.recipe_source import Found
from .ir import Const, Graph


def written_recipe(
    document: Document,
    files: Files,
    values: Mapping[str, Const],
    graph: Graph,
    settings: Mapping[str, Any],
    library: Library,
) -> Recipe | None:
    """The recipe of a checked workflow, without anything that only a run knows; None for a text without a file.

    Inputs have all their values, given or default, so that a value that equals its default changes nothing. A default
    path is relative to the file that declares it, so it is left to that file.
    """
    if document.path is None:
        return None
    inputs = {}
    for name, value in values.items():
        declared = graph.inputs[name]
        if _is_path(declared.type) and value is declared.default:
            continue
        inputs[name] = _each(value.value, _without_folders) if _is_path(declared.type) else value.value
    return Recipe(
        tuple(_files(document, files)),
        inputs,
        {path: _each(value, _existing_without_folders) for path, value in settings.items()},
        tuple(_libraries(graph, library)),
    )


def _files(document: Document, files: Files) -> list[RecipeFile]:
    """The workflow file, then the files that it uses by name."""
    assert document.path is not None
    folder = Path(os.path.abspath(document.folder))
    found = {}
    for route, path in files.routes.items():
        each = _file(route, files.documents.get(path), folder)
        if each is not None:
            found[each.name] = each
    first = _file(Path(os.path.abspath(document.path)), document, folder)
    assert first is not None
    return [first, *(each for name, each in sorted(found.items()) if name != first.name)]


def _file(route: Path, document: Document | None, folder: Path) -> RecipeFile | None:
    if document is None or document.path is None:
        return None
    text = document.source.text
    bundled = bundled_name(document.path)
    if bundled is not None:
        digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
        return RecipeFile(name=bundled, sha256=digest)
    for base in (folder, folder.resolve()):  # files that files use are found without links
        if route.is_relative_to(base):
            return RecipeFile(name=route.relative_to(base).as_posix(), text=text)
    return RecipeFile(name=Path(os.path.relpath(route, folder)).as_posix(), text=text)


def _libraries(graph: Graph, library: Library) -> list[UsedFile]:
    """The libraries that define nodes of the workflow, without the standard one."""
    names = sorted({call.type.library for call in graph.calls()} - {STANDARD, ""})
    found = []
    for name in names:
        path = Path(name)
        if name.endswith(".py") and path.is_file():
            found.append(UsedFile(name=path.name, sha256=hashlib.sha256(path.read_bytes()).hexdigest()))
        else:
            found.append(UsedFile(name=name))
    return found


def changed_run(found: Found, library: Library, options: Mapping[str, Any] | None) -> list[Diagnostic]:
    """Warnings about what a run needed, or had, that its recipe cannot bring along.

    Args:
        found: The recipe.
        library: The libraries that are loaded.
        options: Options of the run that will follow; None if nothing will run.
    """
    given = {Path(name).name: Path(name) for name in library.libraries}
    warnings = []
    for needed in found.recipe.libraries:
        path = given.get(needed.name)
        if path is None:
            is_file = needed.name.endswith(".py")
            message = f"{found.place} was made with " + (
                f"--library {needed.name}" if is_file else f"the library {needed.name}, which is not installed"
            )
            help = "a recipe cannot load code: " + (
                f"pass --library with that file (SHA-256 {needed.sha256})" if is_file else "install the package"
            )
            warnings.append(Diagnostic("unavailable", message, help=help, severity="warning"))
        elif needed.sha256 is not None and hashlib.sha256(path.read_bytes()).hexdigest() != needed.sha256:
            message = f"--library {path} is not the file that {found.place} was made with"
            help = f"the SHA-256 of that file is {needed.sha256}"
            warnings.append(Diagnostic("version", message, help=help, severity="warning"))
    for name, value in found.recipe.options.items() if options is not None else ():
        if options is not None and options.get(name) != value:
            option = f"--{name.replace('_', '-')}" + ("" if value is True else f" {value}")
            message = f"{found.place} was made with {option}, which is not taken from a recipe"
            warnings.append(Diagnostic("version", message, help=f"pass {option} to do the same", severity="warning"))
    return warnings


def _is_path(type: Type) -> bool:
    return (type.item or type).kind == "path"


def _each(value: Any, change: Any) -> Any:
    return [change(each) for each in value] if isinstance(value, list | tuple) else change(value)


def _without_folders(value: Any) -> Any:
    """A path; of an absolute one, the file name."""
    text = os.fspath(value) if isinstance(value, os.PathLike) else value
    return Path(text).name if isinstance(text, str) and os.path.isabs(text) else text


def _existing_without_folders(value: Any) -> Any:
    """The value; of a whole path to something on this disk, the last name. The types of settings are not kept."""
    try:
        is_path = isinstance(value, os.PathLike) or (isinstance(value, str) and os.path.isabs(value))
        return _without_folders(value) if is_path and os.path.exists(value) else value
    except (OSError, ValueError):
        return value
