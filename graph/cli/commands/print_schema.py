"""`sgd schema`."""

from __future__ import annotations

import json
from argparse import Namespace

from ...contract.constants import DONE
from ...contract.errors import LibraryError
from ..command_line import load_library, wrong


def command(arguments: Namespace) -> int:
    """`sgd schema`."""
    from ...language.schema import schema

    try:
        print(json.dumps(schema(load_library(arguments)), indent=1))
    except LibraryError as error:
        return wrong(str(error))
    return DONE
