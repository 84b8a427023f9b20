"""The files that a workflow depends on, and a wait until one of them is saved."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from ..compiler.compile import Checked
from ..compiler.frontend.workflow_path import find_workflow
from ..compiler.ir import Call, Const
from ..contract.errors import Problems

POLL_SECONDS = 0.2
"""Seconds between two looks at the files."""
SETTLED = 2
"""Looks in a row that must find the same before a save counts as finished."""
PATIENCE = 2.0
"""Seconds to wait for a file that is gone: editors remove it before they put the new one in its place."""
MOST = 10_000
"""Files of one folder that are watched."""

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
            for item, _ in checked.graph.walk():
                if isinstance(item, Call):
                    found |= set(_read_by(item))
    return sorted(found)


def _read_by(call: Call) -> Iterable[Path]:
    for name, arg in call.args.items():
        if call.type.inputs[name].path in ("read", "source") and isinstance(arg.source, Const):
            value = arg.source.value
            for each in value if isinstance(value, list) else [value]:
                if isinstance(each, str | Path) and os.path.isabs(each):
                    yield Path(each)


def states(paths: Iterable[Path]) -> States:
    """The states of files, and of the files in folders."""
    found: dict[Path, object] = {}
    for path in paths:
        if path.is_dir():
            inner = (Path(folder) / name for folder, _, names in os.walk(path) for name in sorted(names))
            found |= {each: _state(each) for each, _ in zip(inner, range(MOST), strict=False)}
        else:
            found[path] = _state(path)
    return found


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
