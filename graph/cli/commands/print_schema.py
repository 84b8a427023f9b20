"""`sgd schema`."""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence

from ...contract.constants import DONE
from ...contract.errors import LibraryError
from ...contract.node_library import NodeLibrary
from ..command_line import load_library, wrong
from ..common_arguments import library_files


def add_arguments(to: ArgumentParser, _: Sequence[NodeLibrary]) -> None:
    """Add the arguments of `sgd schema`."""
    library_files(to)


def command(arguments: Namespace) -> int:
    """`sgd schema`."""
    from ...language.schema import schema

    try:
        print(json.dumps(schema(load_library(arguments)), indent=1))
    except LibraryError as error:
        return wrong(str(error))
    return DONE
