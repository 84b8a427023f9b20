"""`sgd check`."""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path

from ...compiler.compile import check
from ...contract.collector import collector_paused
from ...contract.constants import DONE, WRONG
from ...contract.diagnostics import Diagnostic, render
from ...contract.errors import LibraryError, NodeError
from ...contract.node_library import NodeLibrary
from ..command_line import given, load_library, wrong
from ..common_arguments import library_files
from ..history.killed_run import error_without_record
from ..ranks.rank_options import asked_of, rank_options
from ..terminal import say


def add_arguments(to: ArgumentParser, _: Sequence[NodeLibrary]) -> None:
    """Add the arguments of `sgd check`."""
    to.add_argument(
        "files",
        nargs="+",
        metavar="FILE",
        help="workflow files, or names of bundled workflows; after them values of inputs, name=value, for all files",
    )
    to.add_argument("--json", action="store_true", help="print the diagnostics as a JSON list on stdout")
    library_files(to)
    rank_options(to)


def _is_value(word: str) -> bool:
    """Whether a word is the value of an input, and no file."""
    return word.partition("=")[0].isidentifier() and "=" in word and not Path(word).exists()


@collector_paused()
def command(arguments: Namespace) -> int:
    """`sgd check`."""
    try:
        library = load_library(arguments)
        asked = asked_of(arguments)
        files = [word for word in arguments.files if not _is_value(word)]
        inputs = given([word for word in arguments.files if _is_value(word)], "name=value")
        if not files:
            raise NodeError("no file is named", help="write `sgd check FILE name=value`")
    except (LibraryError, NodeError) as error:
        return wrong(str(error), getattr(error, "help", None))
    found: list[Diagnostic] = []
    for file in files:
        if killed := error_without_record(file):
            found.append(Diagnostic("composite-not-found", str(killed), help=killed.help))
            if not arguments.json:
                say(render(found[-1:], {}))
            continue
        result = check(file, inputs, library=library, options={}, asked=asked)
        found += result.diagnostics
        if result.diagnostics and not arguments.json:
            say(render(result.diagnostics, result.sources))
    if arguments.json:
        print(json.dumps([d.json() for d in found], indent=1))
    return WRONG if any(d.severity == "error" for d in found) else DONE
