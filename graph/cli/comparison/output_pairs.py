"""The outputs of two runs, each beside its counterpart: equal bytes, and how alike the pixels are."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...contract.errors import NodeError
from ...contract.likeness import Likeness
from ...contract.node_library import NodeLibrary
from ...runtime.recorded_outputs import UnknownOutput, flat, output_files
from .changed_facts import value_text
from .compared_run import ComparedRun

Progress = Callable[[str, int], None]
"""Called with the name of an output and the number of frames that were compared."""


@dataclass(frozen=True)
class OutputPair:
    """An output of two runs, or one file of an output with several.

    Attributes:
        name: The output's name, with a number for one file of several.
        before: Its file in the first run; None if it is no file, or cannot be opened.
        after: The same in the second run.
        equal: Whether bytes or values are equal; None if that is not known.
        likeness: How alike the pixels are; None if the bytes are equal, or there are no pixels.
        problem: Why there is nothing to compare; empty if there is.
        values: The two values as text, if the output is no file.
    """

    name: str
    before: Path | None = None
    after: Path | None = None
    equal: bool | None = None
    likeness: Likeness | None = None
    problem: str = ""
    values: tuple[str, str] | None = None

    def text(self) -> str:
        """The result in one line."""
        if self.problem:
            return self.problem
        if self.values is not None:
            return f"equal: {self.values[0]}" if self.equal else f"{self.values[0]} -> {self.values[1]}"
        if self.equal:
            return "equal bytes"
        return self.likeness.text() if self.likeness is not None else "other bytes"

    def json(self) -> dict[str, Any]:
        """The pair as plain data."""
        return {
            "name": self.name,
            "before": str(self.before) if self.before is not None else None,
            "after": str(self.after) if self.after is not None else None,
            "equal": self.equal,
            "likeness": self.likeness.json() if self.likeness is not None else None,
            "problem": self.problem or None,
            "values": list(self.values) if self.values is not None else None,
        }


def output_pairs(
    before: ComparedRun,
    after: ComparedRun,
    libraries: Iterable[NodeLibrary],
    progress: Progress,
    only: str | None = None,
    network: Path | None = None,
) -> tuple[OutputPair, ...]:
    """Compare the outputs of two runs, by name and order.

    Args:
        before: The first run.
        after: The second run.
        libraries: Node libraries, which compare pixels.
        progress: Receives the number of compared frames of an output.
        only: The name of one output; None for all.
        network: The file with the network of LPIPS; None without LPIPS.

    Raises:
        UnfitNetwork: If `network` cannot be read, or is of no known kind.
    """
    libraries = list(libraries)
    found: list[OutputPair] = []
    for name in dict.fromkeys([*before.record.outputs, *after.record.outputs]):
        if only in (None, name):
            found += _output(name, before, after, libraries, progress, network)
    return tuple(found)


def _output(
    name: str,
    before: ComparedRun,
    after: ComparedRun,
    libraries: list[NodeLibrary],
    progress: Progress,
    network: Path | None,
) -> Iterator[OutputPair]:
    runs = (before, after)
    missing = [side for side, run in zip(("first", "second"), runs, strict=True) if name not in run.record.outputs]
    if missing:
        yield OutputPair(name, problem=f"the {missing[0]} run has no such output")
        return
    values = [list(flat(run.record.outputs[name])) for run in runs]
    if not all(isinstance(value, str) for side in values for value in side) or values == [[], []]:
        one, other = (run.record.outputs[name] for run in runs)
        yield OutputPair(name, equal=one == other, values=(value_text(one), value_text(other)))
        return
    try:
        files = [output_files({"outputs": run.record.outputs}, run.folder, name) for run in runs]
    except UnknownOutput as error:
        texts = [run.record.outputs[name] for run in runs]
        if "is missing" in str(error) and not any(_like_path(text) for side in values for text in side):
            yield OutputPair(name, equal=texts[0] == texts[1], values=(value_text(texts[0]), value_text(texts[1])))
        else:
            yield OutputPair(name, problem=str(error))
        return
    if len(files[0]) != len(files[1]):
        yield OutputPair(name, problem=f"{len(files[0])} files against {len(files[1])}")
        return
    for number, (one, other) in enumerate(zip(*files, strict=True)):
        yield file_pair(f"{name} {number}" if len(files[0]) > 1 else name, one, other, libraries, progress, network)


def _like_path(text: str) -> bool:
    """Whether a text output is the name of a file rather than words: it has a suffix."""
    return bool(Path(text).suffix) and "\n" not in text and len(text) < 300


def file_pair(
    name: str,
    before: Path,
    after: Path,
    libraries: Iterable[NodeLibrary],
    progress: Progress,
    network: Path | None = None,
) -> OutputPair:
    """Compare two files: their bytes, and their pixels where the bytes differ. See `output_pairs`."""
    try:
        if _digest(before) == _digest(after):
            return OutputPair(name, before, after, equal=True)
        for library in libraries:
            found = library.likeness(before, after, lambda frames: progress(name, frames), network)
            if found is not None:
                return OutputPair(name, before, after, equal=False, likeness=found)
    except (NodeError, OSError) as error:
        return OutputPair(name, before, after, problem=str(error))
    return OutputPair(name, before, after, equal=False)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
