"""`sgd graph`."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...contract.constants import DONE, LARGEST_RECORD
from ...contract.errors import NodeError, UnreadableFile
from ...contract.json_reader import read_json
from ...contract.node_library import NodeLibrary
from ...runtime.context import RECORD
from ..command_line import checked, wrong
from ..common_arguments import workflow
from ..history.killed_run import error_without_record
from ..page_files import target_of, write_page
from ..terminal import say, show


def add_arguments(to: ArgumentParser, _: Sequence[NodeLibrary]) -> None:
    """Add the arguments of `sgd graph`."""
    workflow(to)
    to.add_argument(
        "--format",
        choices=["text", "mermaid", "dot", "html"],
        default="text",
        help="the form of the drawing (default: text)",
    )
    to.add_argument("--out", metavar="FILE", help="write the drawing to a file instead of stdout")
    to.add_argument("--overwrite", action="store_true", help="replace a file of --out that exists")
    to.add_argument("--profile", metavar="RUN", help="show the times of a run: its folder, or its run.json")


def _compare_names(record: Any, name: str, file: str) -> None:
    """Warn where the record is of another workflow."""
    workflow = record.get("workflow")
    ran = workflow.get("name") if isinstance(workflow, dict) else None
    if ran not in (None, name):
        say(f"warning: {file} is the record of {ran}, not of {name}: only nodes of equal names show times")


def command(arguments: Namespace) -> int:
    """`sgd graph`."""
    from ..picture import FORMATS, times_of

    found = checked(arguments, complete=False)
    if isinstance(found, int):
        return found
    times = None
    if arguments.profile:
        try:
            ran = Path(arguments.profile)
            if killed := error_without_record(arguments.profile):
                return wrong(f"--profile: {killed}", killed.help)
            record = read_json(ran / RECORD if ran.is_dir() else ran, most=LARGEST_RECORD)
            times = times_of(record)
        except UnreadableFile as error:
            return wrong(f"--profile {arguments.profile}: not the record of a run: {error}", error.help)
        except (KeyError, TypeError, ValueError):
            return wrong(f"--profile {arguments.profile}: not the record of a run", "a run writes it, as run.json")
    assert found[0].graph is not None
    if times is not None:
        _compare_names(record, found[0].graph.name, arguments.profile)
    try:
        target = None if arguments.out is None else target_of(arguments.out, arguments.overwrite)
        if arguments.format == "html":
            from ..report.graph_page import graph_page

            drawn = graph_page(found[0], times)
        else:
            drawn = FORMATS[arguments.format](found[0].graph, times)
        if target is not None:
            write_page(target, drawn + "\n")
        else:
            show(drawn)
    except NodeError as error:
        return wrong(str(error), error.help)
    return DONE
