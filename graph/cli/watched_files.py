"""The files that a workflow depends on, and a wait until one of them is saved."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from ..compiler.compile import Checked
from ..compiler.frontend.workflow_path import find_workflow
from ..compiler.ir import Call
from ..compiler.read_paths import files_below, read_paths
from ..contract.errors import Problems

POLL_SECONDS = 0.2
"""Seconds between two looks at the files."""
SETTLED = 2
"""Looks in a row that must find the same before a save counts as finished."""
PATIENCE = 2.0
"""Seconds to wait for a file that is gone: editors remove it before they put the new one in its place."""
States = Mapping[Path, object]
"""For each path, a value that changes when the file does; None if there is none."""


def files_of(file: str, libraries: Iterable[str], checked: Checked | None) -> list[Path]:
    """The files of a workflow: its own text, the files that it uses, those that its nodes read, and libraries.

    Args:
        file: The workflow, as on the command line.
        libraries: The files of `--library`.
        checked: The last check of the workflow; None if there was none.
    """
    found = {Path(os.path.abspath(each)) for each in libraries}
    try:
        found.add(Path(os.path.abspath(find_workflow(file)[0])))
    except Problems:
        found.add(Path(os.path.abspath(file)))
    if checked is not None:
        sources = [each.path for each in checked.sources.values() if each.path is not None]
        found |= {Path(os.path.abspath(path)) for path in (*sources, *checked.files.failed)}
        if checked.graph is not None:
            found |= set(read_paths(item for item, _ in checked.graph.walk() if isinstance(item, Call)))
    return sorted(found)


def states(paths: Iterable[Path]) -> States:
    """The states of files, and of the files in folders."""
    return {each: _state(each) for path in paths for each in files_below(path)}


def _state(path: Path) -> object:
    with suppress(OSError):
        known = path.stat()
        return known.st_ino, known.st_size, known.st_mtime_ns
    return None


def wait(paths: Iterable[Path], before: States, over: Callable[[], bool]) -> list[Path]:
    """Wait until files are no longer as they were, and are not being written.

    Args:
        paths: The files.
        before: Their states.
        over: Asked at each look; when true, the wait is over.

    Returns:
        The files that changed; none if it is over.
    """
    paths = list(paths)
    last, same, began = before, 0, 0.0
    while not over():
        now = states(paths)
        changed = [path for path in {**before, **now} if before.get(path) != now.get(path)]
        if not changed:
            same, began = 0, 0.0
        else:
            began = began or time.monotonic()
            same = same + 1 if now == last else 1
            gone = any(now.get(path) is None for path in changed) and time.monotonic() - began < PATIENCE
            if same >= SETTLED and not gone:
                return changed
        last = now
        time.sleep(POLL_SECONDS if not changed else POLL_SECONDS / 4)
    return []
