"""`sgd resume DIR`, where DIR is the folder of a sweep."""

from __future__ import annotations

from argparse import Namespace
from contextlib import chdir
from dataclasses import replace
from pathlib import Path

from ...contract.errors import NodeError
from ...language.registry import Library
from ..command_line import load_library
from .go_on import Shown, go_on
from .sweep_file import Sweep, read_sweep


def resume_sweep(folder: Path, arguments: Namespace) -> int:
    """Go on with a sweep, in the folder that it was started in. Its libraries and permissions are given again.

    Returns:
        The exit code.

    Raises:
        UnreadableFile: If `sweep.json` cannot be read.
        LibraryError: If a library cannot be loaded.
        NodeError: If a library or a permission is not given again, the workflow has changed since, or another process
            runs the sweep.
    """
    folder = folder.absolute()
    sweep, given = read_sweep(folder), tuple(str(Path(each).absolute()) for each in arguments.library)
    for each in sweep.libraries:
        if Path(each).name not in (Path(other).name for other in given):
            name = Path(each).name
            raise NodeError(
                f"the sweep was started with --library {name}, and no file can load code",
                help=f"pass it again: --library {each}",
            )
    arguments.library = list(given)
    library = load_library(arguments)
    _require_permissions(sweep, library, arguments)
    if not Path(sweep.base).is_dir():
        raise NodeError(f"the sweep was started in {sweep.base}, which is no longer there", help="make it again")
    with chdir(sweep.base):  # its paths are relative to it
        shown = Shown(arguments.json, arguments.quiet, arguments.traceback)
        return go_on(replace(sweep, libraries=given), folder, library, shown)


def _require_permissions(sweep: Sweep, library: Library, arguments: Namespace) -> None:
    for option in (option for each in library.libraries.values() for option in each.options if option.permission):
        if sweep.options.get(option.key) and not option.value_in(arguments):
            raise NodeError(
                f"the sweep was started with --{option.name}, and no file can give that permission",
                help=f"pass it again: --{option.name}",
            )
