"""`sgd init`."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from ...contract.constants import DONE
from ...contract.errors import NodeError
from ...language.registry import installed

if TYPE_CHECKING:
    pass
from ..command_line import hook, say, wrong


def command(arguments: Namespace) -> int:
    """`sgd init`."""
    text = None
    try:
        for starter in hook(installed(), "starter"):
            name, text = starter(arguments.source)
    except NodeError as error:
        return wrong(str(error), error.help)
    assert text is not None
    if arguments.out == "-":
        print(text, end="")
        return DONE
    path = Path(arguments.out or f"{name}.yaml")
    if path.exists() and not arguments.overwrite:
        return wrong(f"{path} exists", "pass --overwrite, or another --out")
    try:
        path.write_text(text)
    except OSError as error:
        return wrong(f"cannot write {path}: {error.strerror}")
    say(f"wrote {path}; try `sgd check {path}` and `sgd plan {path}`")
    return DONE
