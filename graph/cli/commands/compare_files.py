"""`sgd diff`."""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...compiler.compile import check
from ...contract.constants import DONE, WRONG
from ...contract.diagnostics import render
from ...contract.errors import LibraryError, UnreadableFile
from ...contract.node_library import NodeLibrary
from ...language.registry import Library
from ..command_line import load_library, wrong
from ..common_arguments import library_files
from ..terminal import say, show


def add_arguments(to: ArgumentParser, _: Sequence[NodeLibrary]) -> None:
    """Add the arguments of `sgd diff`."""
    to.add_argument("before", metavar="A", help="a workflow, a run (its folder or run.json), a picture or a clip")
    to.add_argument("after", metavar="B", help="what to compare it with")
    to.add_argument("--json", action="store_true", help="print the differences as JSON on stdout")
    library_files(to)


def command(arguments: Namespace) -> int:
    """`sgd diff`."""
    from ..comparison.sides import kind_of_side

    try:
        library = load_library(arguments)
    except LibraryError as error:
        return wrong(str(error))
    names = (arguments.before, arguments.after)
    kinds = tuple(map(kind_of_side, names))
    if kinds == ("workflow", "workflow"):
        return _workflows(names, library, arguments.json)
    compare = {("run", "run"): _runs, ("media", "media"): _media}.get((kinds[0], kinds[1]))
    if compare is None:
        return wrong(f"{names[0]} ({kinds[0]}) and {names[1]} ({kinds[1]}) have nothing in common")
    try:
        content, text = compare(names, list(library.libraries.values()))
    except UnreadableFile as error:
        return wrong(str(error), error.help)
    _print(content, text, arguments.json)
    return DONE


def _print(content: Any, text: str, as_json: bool) -> None:
    shown = json.dumps(content, indent=1) if as_json else text
    if shown:
        show(shown)


def _workflows(names: Sequence[str], library: Library, as_json: bool) -> int:
    from ..difference import difference, text

    results = [check(file, library=library, fold_inputs=False) for file in names]
    for result in results:
        if result.errors:
            say(render(result.errors, result.sources))
    before, after = (result.graph for result in results)
    if before is None or after is None:
        return WRONG
    found = difference(before, after)
    _print(found, text(found), as_json)
    return DONE


def _runs(names: Sequence[str], libraries: Sequence[NodeLibrary]) -> tuple[Any, str]:
    from ..comparison.compare_command import compared
    from ..comparison.comparison_text import comparison_text

    found = compared(names, libraries)
    return found.json(), comparison_text(found)


def _media(names: Sequence[str], libraries: Sequence[NodeLibrary]) -> tuple[Any, str]:
    from ..comparison.compare_command import Counting
    from ..comparison.comparison_text import outputs_text
    from ..comparison.output_pairs import file_pair

    with Counting() as progress:
        pair = file_pair("pixels", Path(names[0]), Path(names[1]), libraries, progress)
    if pair.problem:
        raise UnreadableFile(pair.problem)
    return {"pixels": pair.json()}, "" if pair.equal else "\n".join(outputs_text([pair]))
