"""`sgd runs`."""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path

from ...contract.constants import DONE
from ...contract.errors import NodeError
from ...contract.node_library import NodeLibrary
from ..command_line import wrong
from ..terminal import say, show, stdout_width

PAGE = "runs.html"
OUTPUTS = "outputs"
"""The folder that holds runs without `--out`."""


def add_arguments(to: ArgumentParser, _: Sequence[NodeLibrary]) -> None:
    """Add the arguments of `sgd runs`."""
    to.add_argument(
        "folder", nargs="?", default=None, metavar="FOLDER", help=f"the folder with runs (default: {OUTPUTS})"
    )
    forms = to.add_mutually_exclusive_group()
    forms.add_argument("--json", action="store_true", help="print the runs as a JSON list on stdout")
    forms.add_argument("--html", action="store_true", help=f"write a gallery, FOLDER/{PAGE}, that links to the files")
    to.add_argument("--out", metavar="FILE", help="the file of --html")
    to.add_argument("--overwrite", action="store_true", help="replace a file of --out that is no gallery")


def command(arguments: Namespace) -> int:
    """`sgd runs`."""
    from ..history.run_list import run_list_text, runs_in

    folder = Path(arguments.folder or OUTPUTS)
    if arguments.out is not None and not arguments.html:
        return wrong("--out names the file of --html", "add --html")
    if arguments.folder is None and not folder.exists():
        if arguments.json:
            print("[]")
        say(f"there are no runs: the folder {folder} does not exist; `sgd runs .` looks in this folder")
        return DONE
    if not folder.is_dir():
        return wrong(f"there is no folder {folder}", "runs lie in outputs/, or in the folder of their --out")
    runs = runs_in(folder)
    if arguments.json:
        print(json.dumps([run.json() for run in runs], indent=1))
    elif arguments.html:
        from ..history.gallery import write_gallery

        target = folder / PAGE if arguments.out is None else Path(arguments.out)
        try:
            write_gallery(runs, folder, target, arguments.overwrite)
        except NodeError as error:
            return wrong(str(error), error.help)
        show(f"gallery: {target}")
    elif runs:
        show(run_list_text(runs, folder, stdout_width()))
    else:
        say(f"there are no runs in {folder}")
    return DONE
