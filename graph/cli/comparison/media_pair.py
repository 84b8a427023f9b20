"""Pictures and clips of `sgd diff`: their pixels, and the recipes that they carry."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ...compiler.frontend.recipe_source import recipe_at
from ...contract.errors import Problems, UnreadableFile
from ...contract.node_library import NodeLibrary
from ...language.recipe import Recipe
from ...runtime.recorded_outputs import UnknownOutput, output_files
from .changed_facts import Change, ChangedFiles, changed_files, changes, recipe_environment, used_files
from .compared_run import ComparedRun, compared_run
from .comparison_text import changed, files_text, outputs_text
from .output_pairs import OutputPair, Progress, file_pair
from .sides import Kind


@dataclass(frozen=True)
class MediaSide:
    """One of two sides: a picture or clip, or the run that is compared with one.

    Attributes:
        name: The side as the user named it.
        path: The picture or clip; None for a run.
        run: The run; None for a picture or clip.
        recipe: The recipe of the run, or in the file.
        problem: Why there is no recipe; empty if there is one.
    """

    name: str
    path: Path | None
    run: ComparedRun | None
    recipe: Recipe | None
    problem: str = ""


@dataclass(frozen=True)
class MediaPair:
    """Two sides, compared.

    Attributes:
        pixels: The two files; None if a run has no file that belongs to the other side.
        files: The difference of the workflow files; None if a side has no recipe.
        facts: Other facts of the recipes that differ, by title.
        notes: Why something was not compared.
    """

    pixels: OutputPair | None
    files: ChangedFiles | None
    facts: Mapping[str, Sequence[Change]]
    notes: Sequence[str]

    def json(self) -> dict[str, Any]:
        """The comparison as plain data."""
        return {
            "pixels": self.pixels.json() if self.pixels is not None else None,
            "files": asdict(self.files) if self.files is not None else None,
            **{title.replace(" ", "_"): [asdict(each) for each in found] for title, found in self.facts.items()},
            "notes": list(self.notes),
        }

    def text(self) -> str:
        """The comparison as text; empty if nothing differs."""
        parts = [list(files_text(self.files)) if self.files is not None else [], *changed(self.facts)]
        if self.pixels is not None and not self.pixels.equal:
            parts.append(list(outputs_text([self.pixels])))
        parts.append([f"note: {note}" for note in self.notes])
        return "\n\n".join("\n".join(part) for part in parts if part)


def media_pair(
    names: Sequence[str], kinds: Sequence[Kind], libraries: Sequence[NodeLibrary], progress: Progress
) -> MediaPair:
    """Compare two pictures or clips, or one with a run.

    Args:
        names: The sides on the command line.
        kinds: Their kinds, `media` or `run`.
        libraries: Node libraries, which read recipes and compare pixels.
        progress: Receives the number of compared frames.

    Raises:
        UnreadableFile: If a file cannot be read.
    """
    one, other = (_side(name, kind, libraries) for name, kind in zip(names, kinds, strict=True))
    pixels = _pixels(one, other, libraries, progress)
    if pixels is not None and pixels.problem:
        raise UnreadableFile(pixels.problem)
    notes = [side.problem for side in (one, other) if side.problem]
    notes += [] if pixels is not None else [f"{_run_of(one, other)} has no output that belongs to the other file"]
    before, after = one.recipe, other.recipe
    if before is None or after is None:
        return MediaPair(pixels, None, {}, notes)
    facts = {
        "inputs": changes(before.inputs, after.inputs),
        "set": changes(before.settings, after.settings),
        "files that were read": changes(used_files(before), used_files(after), quoted=False),
        "environment": changes(recipe_environment(before), recipe_environment(after), quoted=False),
    }
    return MediaPair(pixels, changed_files(before, after), facts, notes)


def _side(name: str, kind: Kind, libraries: Sequence[NodeLibrary]) -> MediaSide:
    if kind == "run":
        run = compared_run(name)
        problem = f"{name} has no recipe" if run.recipe is None else ""
        return MediaSide(name, None, run, run.recipe, problem)
    try:
        found = recipe_at(name, libraries)
    except Problems as problems:
        return MediaSide(name, Path(name), None, None, problems.diagnostics[0].message)
    problem = f"{name} is of a kind that carries no recipe" if found is None else ""
    return MediaSide(name, Path(name), None, found.recipe if found is not None else None, problem)


def _run_of(one: MediaSide, other: MediaSide) -> str:
    return one.name if one.run is not None else other.name


def _pixels(
    one: MediaSide, other: MediaSide, libraries: Sequence[NodeLibrary], progress: Progress
) -> OutputPair | None:
    paths = [one.path or _counterpart(one.run, other.path), other.path or _counterpart(other.run, one.path)]
    before, after = paths
    return file_pair("pixels", before, after, libraries, progress) if before is not None and after is not None else None


def _counterpart(run: ComparedRun | None, path: Path | None) -> Path | None:
    """The output of a run that belongs to a file: the one with its name, or the only one with its extension."""
    if run is None or path is None:
        return None
    files = list(_files(run))
    named = [file for file in files if file.name == path.name]
    alike = [file for file in files if file.suffix.lower() == path.suffix.lower()]
    return named[0] if named else alike[0] if len(alike) == 1 else None


def _files(run: ComparedRun) -> Iterator[Path]:
    for name in run.record.outputs:
        try:
            yield from output_files({"outputs": run.record.outputs}, run.folder, name)
        except UnknownOutput:
            continue
