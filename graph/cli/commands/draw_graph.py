"""`sgd graph`."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path

from ...contract.constants import DONE
from ..command_line import checked, wrong
from ..terminal import show


def command(arguments: Namespace) -> int:
    """`sgd graph`."""
    from ..picture import FORMATS, times_of

    found = checked(arguments, complete=False)
    if isinstance(found, int):
        return found
    times = None
    if arguments.profile:
        try:
            times = times_of(json.loads(Path(arguments.profile).read_text(encoding="utf-8")))
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            return wrong(f"--profile {arguments.profile}: not the record of a run ({error})")
    assert found[0].graph is not None
    show(FORMATS[arguments.format](found[0].graph, times))
    return DONE
