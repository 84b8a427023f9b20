"""The facts of two runs that differ: files, inputs, settings, environment. Values are shown as text."""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from ...contract.workflow_folders import bundled_path
from ...language.recipe import Recipe, RecipeFile
from .compared_run import ComparedRun

ABSENT = "(none)"
"""Stands for an entry that a run does not have. It is compared by identity."""
UNSET = (False, None, "")


@dataclass(frozen=True)
class Change:
    """A fact with two values, as text."""

    name: str
    before: str
    after: str


@dataclass(frozen=True)
class FileChange:
    """The difference of two texts of one workflow file.

    Attributes:
        name: The name of the file.
        lines: The lines of a unified diff, without its head.
    """

    name: str
    lines: tuple[str, ...]


@dataclass(frozen=True)
class ChangedFiles:
    """The difference of the workflow files of two runs.

    Attributes:
        equal: Whether all texts are equal; None if the texts are not recorded, and so not known.
        note: A sentence where the difference is not shown in `files`; empty if it is.
        files: The files whose texts differ.
    """

    equal: bool | None
    note: str = ""
    files: tuple[FileChange, ...] = ()


def changes(before: Mapping[str, Any], after: Mapping[str, Any], quoted: bool = True) -> tuple[Change, ...]:
    """The entries of two mappings that differ. `quoted`: texts stand in quotation marks."""
    found = []
    for name in dict.fromkeys([*before, *after]):
        one, other = (side.get(name, ABSENT) for side in (before, after))
        if one != other or isinstance(one, bool) != isinstance(other, bool):
            texts = [value_text(value, quoted) for value in (one, other)]
            if texts[0] == texts[1]:
                texts = [value_text(value, quoted=True, digits=17) for value in (one, other)]
            found.append(Change(name, *texts))
    return tuple(found)


def value_text(value: Any, quoted: bool = True, digits: int = 6) -> str:
    """A value of a record in full, on one line; numbers with some digits."""
    if value is ABSENT:
        return ABSENT
    if isinstance(value, float) and value != int(value):
        return f"{value:.{digits}g}"
    if isinstance(value, str) and value and not quoted:
        return value
    return json.dumps(value, ensure_ascii=False)


def run_environment(run: ComparedRun) -> dict[str, Any]:
    """Where and with what a run ran: versions, device, and options that are not the default."""
    return {
        **recipe_environment(run.recipe),
        "sgd": run.record.sgd,
        **run.record.environment,
        **_options(run.record.options),
        **({"processes": str(run.record.parallel.mesh)} if run.record.parallel is not None else {}),
    }


def recipe_environment(recipe: Recipe | None) -> dict[str, Any]:
    """The same from a recipe, which has no system; empty without a recipe."""
    if recipe is None:
        return {}
    return {**recipe.versions, "device": recipe.device, **_options(recipe.options)}


def _options(options: Mapping[str, Any]) -> dict[str, Any]:
    return {f"--{name.replace('_', '-')}": value for name, value in options.items() if value not in UNSET}


def used_files(recipe: Recipe | None) -> dict[str, str]:
    """The files that a run read, and those of its node types, with the beginning of their hashes."""
    if recipe is None:
        return {}
    found = [*(each for role in recipe.used.values() for each in role), *recipe.libraries]
    return {each.label: f"sha256 {each.sha256[:16]}" if each.sha256 else "not hashed" for each in found}


def changed_files(before: Recipe | None, after: Recipe | None, equal_hashes: bool | None = None) -> ChangedFiles:
    """Compare the workflow files of two recipes.

    Args:
        before: The first recipe; None if there is none.
        after: The second one.
        equal_hashes: Whether the hashes of the two workflow files are equal; None if they are not known.
    """
    if before is None or after is None:
        if equal_hashes is None:
            return ChangedFiles(None, "the texts of the files are not recorded")
        if equal_hashes:
            return ChangedFiles(None, "the workflow file is equal; the files that it uses are not recorded")
        return ChangedFiles(False, "the workflow files differ; their texts are not recorded")
    differing = tuple(_difference(_named(before.files), _named(after.files)))
    return ChangedFiles(not differing, files=differing)


def _named(files: Iterable[RecipeFile]) -> dict[str, str]:
    """Texts by name. The first file is the workflow, which may have another name in another run."""
    return {file.name if number else "": _text(file) for number, file in enumerate(files)}


def _text(file: RecipeFile) -> str:
    """The text of a file; of a bundled one that has changed since, only its hash."""
    if file.text is not None:
        return file.text
    path = bundled_path(file.name)
    with suppress(OSError, ValueError):
        text = path.read_bytes().decode("utf-8-sig") if path is not None else ""
        if hashlib.sha256(text.encode()).hexdigest() == file.sha256:
            return text
    return f"(the bundled file {file.name} with sha256 {file.sha256})\n"


def _difference(before: Mapping[str, str], after: Mapping[str, str]) -> Iterator[FileChange]:
    for name in dict.fromkeys([*before, *after]):
        one, other = (side.get(name, "").splitlines() for side in (before, after))
        if one != other:
            lines = tuple(difflib.unified_diff(one, other, lineterm="", n=2))[2:]
            yield FileChange(name or "the workflow", lines)
