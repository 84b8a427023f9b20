"""`sgd check`."""

from __future__ import annotations

import json
from argparse import Namespace

from ...compiler.compile import check
from ...contract.constants import DONE, WRONG
from ...contract.diagnostics import Diagnostic, render
from ...contract.errors import LibraryError
from ..collector import collector_paused
from ..command_line import load_library, wrong
from ..terminal import say


@collector_paused()
def command(arguments: Namespace) -> int:
    """`sgd check`."""
    try:
        library = load_library(arguments)
    except LibraryError as error:
        return wrong(str(error))
    found: list[Diagnostic] = []
    for file in arguments.files:
        result = check(file, library=library)
        found += result.diagnostics
        if result.diagnostics and not arguments.json:
            say(render(result.diagnostics, result.sources))
    if arguments.json:
        print(json.dumps([d.json() for d in found], indent=1))
    return WRONG if any(d.severity == "error" for d in found) else DONE
