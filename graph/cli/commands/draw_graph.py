"""`sgd graph`."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path

from ...contract.constants import DONE
from ...contract.errors import UnreadableFile
from ...contract.json_reader import read_json
from ...contract.node_library import NodeLibrary
from ..command_line import checked, wrong
from ..common_arguments import workflow
from ..terminal import show

LARGEST_RECORD = 256 << 20  # bytes; a run of 100,000 steps writes some tens of megabytes


def add_arguments(to: ArgumentParser, _: Sequence[NodeLibrary]) -> None:
    """Add the arguments of `sgd graph`."""
    workflow(to)
    to.add_argument(
        "--format", choices=["text", "mermaid", "dot"], default="text", help="the form of the drawing (default: text)"
    )
    to.add_argument("--profile", metavar="RUN.JSON", help="show the times of a run")


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
