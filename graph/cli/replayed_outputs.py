"""Compares the outputs of a replay with those of the run that it repeats, file by file."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from filecmp import cmp
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..contract.errors import NodeError
from ..contract.likeness import Likeness
from ..contract.node_library import NodeLibrary
from .tables import each

if TYPE_CHECKING:
    from ..runtime.run_result import Result


@dataclass(frozen=True)
class Replayed:
    """One output, then and now.

    Attributes:
        name: The output of the workflow, or the file that is no output.
        before: The file of the run, or its value as text.
        after: The same of the replay.
        verdict: The result of the comparison, in words.
        equal: Whether the bytes, the pixels or the values are equal.
        likeness: How alike the pixels are; None if they were not compared.
        both: Whether there was something to compare on both sides.
    """

    name: str
    before: str
    after: str
    verdict: str
    equal: bool
    likeness: Likeness | None = None
    both: bool = True

    def json(self) -> dict[str, Any]:
        """The comparison as plain data."""
        alike = None if self.likeness is None else self.likeness.json()
        return {
            "name": self.name,
            "before": self.before,
            "after": self.after,
            "verdict": self.verdict,
            "equal": self.equal,
            "likeness": alike,
        }

    def at_least(self, psnr: float | None) -> bool:
        """Whether the output is equal, or its pixels are alike with this PSNR in dB."""
        if self.equal or psnr is None or self.likeness is None or self.likeness.problem is not None:
            return self.equal
        return self.likeness.psnr is not None and self.likeness.psnr >= psnr


def replayed_run(
    before: Mapping[str, Any], folder: Path, after: Result, libraries: Sequence[NodeLibrary]
) -> list[Replayed]:
    """Compare all outputs of a run, and all files that its replay wrote.

    Args:
        before: The record of the run.
        folder: Its folder.
        after: The replay.
        libraries: Libraries that may compare files.
    """
    old, made = dict(_outputs(before, folder)), dict(_outputs(after.record, after.folder))
    named = {value for value in made.values() if isinstance(value, Path)}
    root = after.folder.resolve()
    for path in (path for path in after.written if path not in named):
        name = path.relative_to(root).as_posix()
        old[name], made[name] = Path(os.path.abspath(folder)) / name, path
    found = []
    for key in dict.fromkeys((*old, *made)):
        then, now = old.get(key), made.get(key)
        if key not in old or key not in made:
            text = "was not there" if key not in old else "was not made again"
            found.append(Replayed(key, str(then or ""), str(now or ""), text, False, both=False))
        elif isinstance(then, Path) and isinstance(now, Path):
            found.append(replayed_file(key, then, now, libraries))
        else:
            text = "equal" if then == now else f"{now}, not {then}"
            found.append(Replayed(key, str(then), str(now), text, then == now))
    return found


def replayed_clip(before: Path, after: Result, libraries: Sequence[NodeLibrary]) -> list[Replayed]:
    """Compare one file of a run whose record is not there.

    It is compared with the file of the replay that has its bytes, or else its name, or else alone its suffix.
    """
    same = [path for path in after.written if path.suffix.lower() == before.suffix.lower()]
    equal = [path for path in same if _equal_bytes(before, path)]
    named = [path for path in same if path.name == before.name]
    for choice in (equal, named, same if len(same) == 1 else []):
        if choice:
            return [replayed_file(choice[0].name, before, choice[0], libraries)]
    names = ", ".join(path.name for path in after.written) or "none"
    text = f"no file of the replay has its name, or alone its suffix ({names})"
    return [Replayed(before.name, str(before), "", text, False, both=False)]


def replayed_file(name: str, before: Path, after: Path, libraries: Sequence[NodeLibrary]) -> Replayed:
    """Compare two files: their bytes, then their pixels."""
    then, now = str(before), str(after)
    if not before.is_file():
        return Replayed(name, then, now, "is no longer there", False, both=False)
    if not after.is_file():
        return Replayed(name, then, now, "was not made again", False, both=False)
    if _equal_bytes(before, after):
        return Replayed(name, then, now, "bit-equal", True)
    try:
        found = (library.likeness(before, after, lambda _: None) for library in libraries)
        alike = next((each for each in found if each is not None), None)
    except NodeError as error:
        return Replayed(name, then, now, f"cannot be compared: {error}", False)
    if alike is None:
        return Replayed(name, then, now, "other bytes", False)
    if alike.equal:
        return Replayed(name, then, now, "equal pixels; the bytes of the files differ", True, alike)
    return Replayed(name, then, now, alike.text(), False, alike)


def has_no_recipes(before: Mapping[str, Any], folder: Path, libraries: Sequence[NodeLibrary]) -> bool:
    """Whether the files that a run gave could carry its recipe, and none does: it had `--no-metadata`.

    Args:
        before: The record of the run.
        folder: Its folder.
        libraries: Libraries that may read recipes.
    """
    files = [value for _, value in _outputs(before, folder) if isinstance(value, Path) and value.is_file()]
    texts = []
    for file in files:
        with suppress(NodeError):  # a damaged file is compared all the same
            texts += [text for library in libraries if (text := library.recipe_text(file)) is not None]
    return bool(texts) and not any(texts)


def _equal_bytes(before: Path, after: Path) -> bool:
    try:
        return cmp(before, after, shallow=False)
    except OSError:
        return False


def _outputs(record: Mapping[str, Any], folder: Path) -> Iterator[tuple[str, Any]]:
    """Each output of a record: a file as its path, another value as it is."""
    outputs = record.get("outputs")
    for name, value in outputs.items() if isinstance(outputs, Mapping) else ():
        entries = list(each(value))
        for number, entry in enumerate(entries):
            path = _inside(folder, entry) if isinstance(entry, str) else None
            yield (name if len(entries) == 1 else f"{name}[{number}]"), entry if path is None else path


def _inside(folder: Path, text: str) -> Path | None:
    """The file in a folder that a text names; None if it names none."""
    if not text or "\0" in text or len(text) > 1000:
        return None
    root = folder.resolve()
    path = Path(os.path.normpath(root / text))
    is_file = path.suffix != "" or path.is_file()
    return path if path.is_relative_to(root) and is_file else None
