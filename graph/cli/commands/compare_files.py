"""`sgd diff`."""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence

from ...compiler.compile import check
from ...contract.constants import DONE, WRONG
from ...contract.diagnostics import render
from ...contract.errors import LibraryError
from ...contract.node_library import NodeLibrary
from ..command_line import load_library, wrong
from ..common_arguments import library_files
from ..terminal import say, show


def add_arguments(to: ArgumentParser, _: Sequence[NodeLibrary]) -> None:
    """Add the arguments of `sgd diff`."""
    to.add_argument("before", metavar="A", help="a workflow file, or the name of a bundled workflow")
    to.add_argument("after", metavar="B", help="the workflow file to compare it with")
    to.add_argument("--json", action="store_true", help="print the differences as JSON on stdout")
    library_files(to)


def command(arguments: Namespace) -> int:
    """`sgd diff`."""
    from ..difference import difference, text

    try:
        library = load_library(arguments)
    except LibraryError as error:
        return wrong(str(error))
    results = [check(file, library=library, fold_inputs=False) for file in (arguments.before, arguments.after)]
    for result in results:
        if result.errors:
            say(render(result.errors, result.sources))
    before, after = (result.graph for result in results)
    if before is None or after is None:
        return WRONG
    found = difference(before, after)
    shown = json.dumps(found, indent=1) if arguments.json else text(found)
    if shown:
        show(shown)
    return DONE
