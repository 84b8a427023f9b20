"""A run that is compared: its record, its folder, and its recipe."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ...language.recipe import Recipe, recipe_of
from ..report.run_record import RunRecord, read_run


@dataclass(frozen=True)
class ComparedRun:
    """A run.

    Attributes:
        name: The run as the user named it.
        folder: Its folder. Paths of outputs are relative to it.
        record: Its record.
        recipe: Its recipe; None if the record has none.
    """

    name: str
    folder: Path
    record: RunRecord
    recipe: Recipe | None

    @property
    def run_seconds(self) -> float:
        """Seconds of running nodes and saving files: without imports, compilation and loading, which caches change."""
        return self.record.phases.get("run", 0.0) + self.record.phases.get("save", 0.0)

    def not_its_own(self) -> Iterator[str]:
        """How the run did not do all its work itself, with the nodes that this holds for: `reused text, noise`."""
        rows = [("reused", [row.name for row in self.record.nodes if row.reused])]
        rows.append(("went on after calls of", [row.name for row in self.record.nodes if row.resumed_calls]))
        for how, names in rows:
            leaves = [name for name in names if not any(other.startswith(f"{name}.") for other in names)]
            if leaves:
                yield f"{how} {', '.join(leaves)}"


def compared_run(name: str) -> ComparedRun:
    """Read a run.

    Args:
        name: The folder of a run, or its `run.json`.

    Raises:
        UnreadableFile: If there is no record, or it cannot be read, is of another version, or is none; or if its recipe
            is damaged.
    """
    found = read_run(name)
    recipe = found.plain.get("recipe")
    return ComparedRun(name, found.folder, found.record, recipe_of(recipe, name) if recipe is not None else None)
