"""The report of runs: reads their records and writes one page."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ...contract.errors import NodeError
from ...contract.output_files import replace_text
from ...contract.text_tables import shortened
from ...language.registry import Library
from .media_files import Media
from .page import page
from .run_record import read_run
from .run_sections import Around, run_panel


@dataclass(frozen=True)
class Target:
    """The file of a page.

    Attributes:
        path: The file.
        replace: Whether it may be replaced.
    """

    path: Path
    replace: bool

    @classmethod
    def of(cls, out: str | None, runs: Sequence[str], name: str, overwrite: bool) -> Target:
        """The file that the command line names.

        A page without `--out` is made from the records alone, so that it replaces an older one; it stands in the run's
        folder, or for several runs in the current folder.

        Raises:
            NodeError: If the file is a folder, or exists and may not be replaced.
        """
        if out == "":
            raise NodeError("--out is empty", help="name a file, or leave --out away")
        if out is None:
            first = Path(runs[0])
            folder = Path() if len(runs) > 1 else first if first.is_dir() else first.parent
            return cls(folder / name, True)
        path = Path(out)
        try:
            if path.is_dir():
                raise NodeError(f"{shortened(path)} is a folder", help="name a file with --out")
            if path.exists() and not overwrite:
                raise NodeError(f"{shortened(path)} exists", help="pass --overwrite, or another --out")
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise NodeError(f"cannot write to {shortened(path)}: {reason}", help="choose another --out") from error
        return cls(path, overwrite)

    def write(self, text: str) -> None:
        """Write the page in one step.

        Raises:
            NodeError: If it cannot be written.
        """
        try:
            replace_text(self.path, text)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise NodeError(f"cannot write {shortened(self.path)}: {reason}", help="choose another --out") from error


def run_report(runs: Sequence[str], target: Target, library: Library) -> list[str]:
    """Write the report of runs.

    Args:
        runs: Folders of runs, or their records.
        target: The file of the page.
        library: Node types, for their summaries and the sections of their libraries.

    Returns:
        Warnings for the user.

    Raises:
        NodeError: If a record cannot be read, or the page cannot be written.
    """
    read = [read_run(run) for run in runs]
    media = Media(target.path.parent)
    around = Around(list(library.libraries.values()), library.nodes, _exec_parser(), media)
    panels = [run_panel(run, around, f"run{number}") for number, run in enumerate(read, 1)]
    names = ", ".join(dict.fromkeys(run.record.workflow.name for run in read))
    target.write(page(f"{shortened(names, 80)} · sgd report", panels))
    return media.notes


def _exec_parser() -> argparse.ArgumentParser:
    """The parser of `sgd exec`, with the options of node libraries."""
    from ..main import libraries_for, parser

    actions = parser(libraries_for("exec", ()), "exec")._actions
    choices = next(a.choices for a in actions if isinstance(a, argparse._SubParsersAction))
    made = choices["exec"]
    assert isinstance(made, argparse.ArgumentParser)
    return made
