"""`sgd clean`."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path

from ...contract.constants import DONE, FAILED
from ...contract.node_library import NodeLibrary
from ...contract.text_tables import columns
from ..command_line import wrong
from ..terminal import say, show

OUTPUTS = "outputs"
"""The folder that holds runs without `--out`."""


def add_arguments(to: ArgumentParser, _: Sequence[NodeLibrary]) -> None:
    """Add the arguments of `sgd clean`."""
    to.add_argument(
        "folder", nargs="?", default=None, metavar="FOLDER", help=f"the folder with runs (default: {OUTPUTS})"
    )
    to.add_argument(
        "--failed", action="store_true", help="remove runs that failed, were interrupted or killed, with their files"
    )
    to.add_argument(
        "--kernels",
        action="store_true",
        help="remove compiled kernels and the choices among kernels from the cache folder too",
    )
    to.add_argument("--yes", action="store_true", help="remove without a question")


def command(arguments: Namespace) -> int:
    """`sgd clean`."""
    from ...language.registry import installed
    from ..history import kernel_folders
    from ..history.leftovers import Kept, Leftover, leftovers, remove
    from ..history.run_list import size_text

    folder = Path(arguments.folder or OUTPUTS)
    runs: list[Leftover] = []
    kept: list[Kept] = []
    if folder.is_dir():
        runs, kept = leftovers(folder, arguments.failed)
    elif arguments.folder is not None:
        return wrong(f"there is no folder {folder}", "runs lie in outputs/, or in the folder of their --out")
    elif not arguments.kernels:
        show(f"nothing to remove: the folder {folder} does not exist")
        return DONE
    caches = kernel_folders.removable() if arguments.kernels else []
    for stays in kept:
        say(f"kept: {stays.path}: {stays.why}")
    if arguments.kernels:
        for line in kernel_folders.kept_elsewhere(installed().libraries.values()):
            say(f"kept: {line}")
    found = [*runs, *caches]
    if not found:
        show("nothing to remove")
        return DONE
    for line in columns([[size_text(each.size), str(each.path), each.what] for each in found], right=[0]):
        show(line)
    total = f"{len(found)} {'entry' if len(found) == 1 else 'entries'}, {size_text(sum(each.size for each in found))}"
    if not arguments.yes:
        if not sys.stdin or not sys.stdin.isatty():
            return wrong(f"{total}: nothing was removed, since nobody can be asked", "pass --yes to remove them")
        say(f"remove {total}? [y/N] ")
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            show("nothing was removed")
            return DONE
    failed = [(each, reason) for each in runs if (reason := remove(each))]
    failed += kernel_folders.remove_caches(caches)
    for each, reason in failed:
        say(f"error: {each.path} was not removed: {reason}")
    show(f"removed {len(found) - len(failed)} of {total}")
    return FAILED if failed else DONE
