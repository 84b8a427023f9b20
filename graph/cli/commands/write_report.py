"""`sgd report`."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence

from ...contract.constants import DONE
from ...contract.errors import LibraryError, NodeError
from ...contract.node_library import NodeLibrary
from ..command_line import load_library, wrong
from ..common_arguments import library_files
from ..comparison import compare_command
from ..terminal import say, show


def add_arguments(to: ArgumentParser, _: Sequence[NodeLibrary]) -> None:
    """Add the arguments of `sgd report`."""
    to.add_argument("runs", nargs="*", metavar="RUN", help="the folder of a run, or its run.json")
    compare_command.add_arguments(to)
    to.add_argument(
        "--out",
        metavar="FILE",
        help="the page (default: report.html in the folder of the run; for several runs, in the current folder; "
        "comparison.html there for --compare)",
    )
    to.add_argument("--overwrite", action="store_true", help="replace a file of --out that exists")
    library_files(to)


def command(arguments: Namespace) -> int:
    """`sgd report`."""
    from ..report.run_report import run_report

    if arguments.compare is not None or not arguments.runs or compare_command.options_given(arguments):
        return compare_command.command(arguments)
    try:
        library = load_library(arguments)
        path, notes = run_report(arguments.runs, arguments.out, arguments.overwrite, library)
    except (LibraryError, NodeError) as error:
        return wrong(str(error), error.help)
    for note in notes:
        say(f"warning: {note}")
    show(f"report: {path}")
    return DONE
