"""`sgd graph`."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from ...contract.constants import DONE
from ...contract.errors import UnreadableFile
from ...contract.json_reader import read_json
from ..command_line import checked, wrong
from ..terminal import show

LARGEST_RECORD = 256 << 20  # bytes; a run of 100,000 steps writes some tens of megabytes


def command(arguments: Namespace) -> int:
    """`sgd graph`."""
    from ..picture import FORMATS, times_of

    found = checked(arguments, complete=False)
    if isinstance(found, int):
        return found
    times = None
    if arguments.profile:
        try:
            times = times_of(read_json(Path(arguments.profile), most=LARGEST_RECORD))
        except UnreadableFile as error:
            return wrong(f"--profile {arguments.profile}: not the record of a run: {error}", error.help)
        except (KeyError, TypeError, ValueError):
            return wrong(f"--profile {arguments.profile}: not the record of a run", "a run writes it, as run.json")
    assert found[0].graph is not None
    show(FORMATS[arguments.format](found[0].graph, times))
    return DONE
