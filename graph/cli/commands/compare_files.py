"""`sgd diff`."""

from __future__ import annotations

import json
from argparse import Namespace

from ...compiler.compile import check
from ...contract.constants import DONE, WRONG
from ...contract.diagnostics import render
from ...contract.errors import LibraryError
from ..command_line import load_library, wrong
from ..terminal import say, show


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
