"""The report of runs: reads their records and writes one page."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from ...contract.text_tables import shortened
from ...language.registry import Library
from ..page_files import page_beside, target_of, write_page
from .media_files import Media
from .page import page
from .run_record import RecordedRun, read_run
from .run_sections import Around, run_panel

NAME = "report.html"


def run_report(runs: Sequence[str], out: str | None, overwrite: bool, library: Library) -> tuple[Path, list[str]]:
    """Write the report of runs.

    Args:
        runs: Folders of runs, or their records.
        out: The file of the page; by default `NAME` in the folder of the run, for several runs in the current folder.
        overwrite: Whether `out` may be replaced.
        library: Node types, for their summaries and the sections of their libraries.

    Returns:
        The file, and warnings for the user.

    Raises:
        NodeError: If a record cannot be read, or the page cannot be written.
    """
    read = [read_run(run) for run in runs]
    path = page_file(read, out, overwrite)
    media = Media(path.parent)
    around = Around(list(library.libraries.values()), library.nodes, exec_parser(), media)
    panels = [run_panel(run, around, f"run{number}") for number, run in enumerate(read, 1)]
    names = ", ".join(dict.fromkeys(run.record.workflow.name for run in read))
    write_page(path, page(f"{shortened(names, 80)} · sgd report", panels))
    return path, media.notes


def page_file(runs: Sequence[RecordedRun], out: str | None, overwrite: bool) -> Path:
    """The file of a page about runs; see `run_report`."""
    if out is not None:
        return target_of(out, overwrite)
    return page_beside(runs[0].folder if len(runs) == 1 else Path(), NAME)


def exec_parser() -> argparse.ArgumentParser:
    """The parser of `sgd exec`, with the options of node libraries."""
    from ..main import libraries_for, parser

    actions = parser(libraries_for("exec", ()), "exec")._actions
    made = next(a.choices for a in actions if isinstance(a, argparse._SubParsersAction))["exec"]
    assert isinstance(made, argparse.ArgumentParser)
    return made
