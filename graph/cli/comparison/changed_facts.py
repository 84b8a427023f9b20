"""The facts of two runs that differ: files, inputs, settings, environment. Values are shown as text."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from .compared_run import ComparedRun, RecordedFile

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


def environment(run: ComparedRun) -> dict[str, Any]:
    """Where and with what a run ran: versions, device, and options that are not the default."""
    options = {f"--{name.replace('_', '-')}": value for name, value in run.record.options.items() if value not in UNSET}
    versions = run.recipe.versions if run.recipe is not None else {}
    return {"sgd": run.record.sgd, **versions, **run.record.environment, **options}


def used_files(run: ComparedRun) -> dict[str, str]:
    """The files that a run read with the beginning of their hashes; empty without a recipe."""
    found = [] if run.recipe is None else [each for role in run.recipe.used.values() for each in role]
    return {each.label: f"sha256 {(each.sha256 or '?')[:16]}" for each in found}


def changed_files(before: ComparedRun, after: ComparedRun) -> ChangedFiles:
    """Compare the workflow files of two runs."""
    if before.recipe is None or after.recipe is None:
        if before.record.workflow.sha256 == after.record.workflow.sha256:
            return ChangedFiles(None, "the workflow file is equal; the files that it uses are not recorded")
        return ChangedFiles(False, "the workflow files differ; their texts are not recorded")
    one, other = (_named(run.recipe.files) for run in (before, after) if run.recipe is not None)
    differing = tuple(_difference(one, other))
    return ChangedFiles(not differing, files=differing)


def _named(files: Iterable[RecordedFile]) -> dict[str, str]:
    """Texts by name. The first file is the workflow, which may have another name in another run."""
    found = {}
    for number, file in enumerate(files):
        text = file.text if file.text is not None else f"(the bundled file with sha256 {file.sha256})\n"
        found[file.name if number else ""] = text
    return found


def _difference(before: Mapping[str, str], after: Mapping[str, str]) -> Iterator[FileChange]:
    for name in dict.fromkeys([*before, *after]):
        texts = [side.get(name, "").splitlines() for side in (before, after)]
        if texts[0] != texts[1]:
            lines = tuple(difflib.unified_diff(*texts, lineterm="", n=2))[2:]
            yield FileChange(name or "the workflow", lines)
