"""`sgd check`."""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence

from ...compiler.compile import check
from ...contract.collector import collector_paused
from ...contract.constants import DONE, WRONG
from ...contract.diagnostics import Diagnostic, render
from ...contract.errors import LibraryError, NodeError
from ...contract.node_library import NodeLibrary
from ..command_line import load_library, wrong
from ..common_arguments import library_files
from ..history.killed_run import error_without_record
from ..ranks.rank_options import asked_of, rank_options
from ..terminal import say


def add_arguments(to: ArgumentParser, _: Sequence[NodeLibrary]) -> None:
    """Add the arguments of `sgd check`."""
    to.add_argument("files", nargs="+", metavar="FILE", help="workflow files, or names of bundled workflows")
    to.add_argument("--json", action="store_true", help="print the diagnostics as a JSON list on stdout")
    library_files(to)
    rank_options(to)


@collector_paused()
def command(arguments: Namespace) -> int:
    """`sgd check`."""
    try:
        library = load_library(arguments)
        asked = asked_of(arguments)
    except (LibraryError, NodeError) as error:
        return wrong(str(error), getattr(error, "help", None))
    found: list[Diagnostic] = []
    for file in arguments.files:
        if killed := error_without_record(file):
            found.append(Diagnostic("composite-not-found", str(killed), help=killed.help))
            if not arguments.json:
                say(render(found[-1:], {}))
            continue
        result = check(file, library=library, options={}, asked=asked)
        found += result.diagnostics
        if result.diagnostics and not arguments.json:
            say(render(result.diagnostics, result.sources))
    if arguments.json:
        print(json.dumps([d.json() for d in found], indent=1))
    return WRONG if any(d.severity == "error" for d in found) else DONE
