"""Compares the outputs of a replay with those of the run that it repeats, file by file."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from filecmp import cmp
from pathlib import Path
from typing import Any

from ..contract.errors import NodeError
from ..contract.likeness import Likeness
from ..contract.node_library import NodeLibrary
from .tables import each


@dataclass(frozen=True)
class Replayed:
    """One output, then and now.

    Attributes:
        name: The output of the workflow, or the node that wrote the file.
        before: The file of the run, or its value as text.
        after: The same of the replay.
        verdict: What became of it, in words.
        equal: Whether the bytes, the pixels or the values are equal.
        likeness: How alike the pixels are; None if they were not compared.
    """

    name: str
    before: str
    after: str
    verdict: str
    equal: bool
    likeness: Likeness | None = None

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
    before: Mapping[str, Any], folder: Path, after: Mapping[str, Any], new: Path, libraries: Iterable[NodeLibrary]
) -> list[Replayed]:
    """Compare all outputs of two records, and the files that their nodes wrote.

    Args:
        before: The record of the run.
        folder: Its folder.
        after: The record of the replay.
        new: Its folder.
        libraries: Libraries that may compare files.
    """
    old, made = dict(_entries(before, folder)), dict(_entries(after, new))
    found = []
    for key in dict.fromkeys((*old, *made)):
        then, now = old.get(key), made.get(key)
        if then is None or now is None:
            text = "only in this run" if then is None else "was not made again"
            found.append(Replayed(key, str(then or ""), str(now or ""), text, False))
        elif isinstance(then, Path) and isinstance(now, Path):
            found.append(replayed_file(key, then, now, libraries))
        else:
            found.append(
                Replayed(key, str(then), str(now), "equal" if then == now else f"{now}, not {then}", then == now)
            )
    return found


def replayed_clip(
    before: Path, after: Mapping[str, Any], new: Path, libraries: Iterable[NodeLibrary]
) -> list[Replayed]:
    """Compare one file of a run that is not there with the file of the replay that has its name, or else its suffix."""
    made = {key: path for key, path in _entries(after, new) if isinstance(path, Path)}
    same = {key: path for key, path in made.items() if path.suffix.lower() == before.suffix.lower()}
    named = {key: path for key, path in same.items() if path.name == before.name}
    equal = {key: path for key, path in same.items() if _equal_bytes(before, path)}
    for choice in (equal, named, same if len(same) == 1 else {}):
        if choice:
            key, path = next(iter(choice.items()))
            return [replayed_file(key, before, path, libraries)]
    names = ", ".join(path.name for path in made.values()) or "none"
    text = f"no file of the replay has its name, or alone its suffix ({names})"
    return [Replayed("file", str(before), "", text, False)]


def replayed_file(name: str, before: Path, after: Path, libraries: Iterable[NodeLibrary]) -> Replayed:
    """Compare two files: their bytes, then their pixels."""
    then, now = str(before), str(after)
    if not before.is_file():
        return Replayed(name, then, now, "is no longer there", False)
    if not after.is_file():
        return Replayed(name, then, now, "was not made again", False)
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


def _equal_bytes(before: Path, after: Path) -> bool:
    try:
        return cmp(before, after, shallow=False)
    except OSError:
        return False


def _entries(record: Mapping[str, Any], folder: Path) -> Iterator[tuple[str, Any]]:
    """Each output of a record, a file as its path. Files of nodes that are no outputs of the workflow follow."""
    seen = set()
    outputs = record.get("outputs")
    for name, value in outputs.items() if isinstance(outputs, Mapping) else ():
        entries = list(each(value))
        for number, entry in enumerate(entries):
            path = _inside(folder, entry) if isinstance(entry, str) else None
            seen.add(path)
            yield (name if len(entries) == 1 else f"{name}[{number}]"), entry if path is None else path
    rows = record.get("nodes")
    for row in rows if isinstance(rows, list) else ():
        for number, output in enumerate(row.get("outputs") or ()):
            path = _inside(folder, output.get("path"))
            if path is not None and path not in seen:
                seen.add(path)
                yield f"{row.get('name')}[{number}]", path


def _inside(folder: Path, text: Any) -> Path | None:
    """The file that a record names, in its folder, which may have moved; None if the text names none."""
    if not isinstance(text, str) or not text or "\0" in text:
        return None
    root = Path(os.path.abspath(folder))
    path = Path(os.path.normpath(root / text))
    if os.path.isabs(text) and not path.is_relative_to(root):
        path = root / path.name
    has_suffix = bool(path.suffix) and len(text) < 1000
    return path if path.is_relative_to(root) and (has_suffix or path.is_file()) else None
