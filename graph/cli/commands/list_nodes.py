"""`sgd nodes`."""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence

from ...contract.constants import DONE
from ...contract.errors import LibraryError
from ...contract.node_library import NodeLibrary
from ...contract.suggestions import did_you_mean
from ..command_line import load_library, wrong
from ..common_arguments import library_files
from ..terminal import show, stdout_width


def add_arguments(to: ArgumentParser, _: Sequence[NodeLibrary]) -> None:
    """Add the arguments of `sgd nodes`."""
    to.add_argument(
        "name", nargs="?", metavar="NAME", help="a node type, such as text.encode (default: all are listed)"
    )
    to.add_argument("--json", action="store_true", help="print the node types as JSON on stdout")
    library_files(to)


def command(arguments: Namespace) -> int:
    """`sgd nodes`."""
    from ..node_help import as_json, details, listing

    try:
        library = load_library(arguments)
    except LibraryError as error:
        return wrong(str(error))
    if arguments.name is None:
        types = [as_json(library.nodes[n]) for n in sorted(library.nodes)]
        show(json.dumps(types, indent=1) if arguments.json else listing(library, stdout_width()))
        return DONE
    type = library.nodes.get(arguments.name)
    if type is None:
        help = did_you_mean(arguments.name, library.nodes) or "`sgd nodes` lists what is installed"
        return wrong(f"no node type `{arguments.name}`", help)
    show(json.dumps(as_json(type), indent=1) if arguments.json else details(type, stdout_width()))
    return DONE
