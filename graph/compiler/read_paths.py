"""The files that calls read, as far as they are known before the run."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from ..contract.node_library import NodeLibrary
from .ir import Call, Const

MOST = 10_000
"""Files of one folder that are looked at."""


def read_paths(calls: Iterable[Call], libraries: Iterable[NodeLibrary] = ()) -> Iterator[Path]:
    """Files and folders that parameters name in the text of a workflow. `libraries` know names that are no paths."""
    libraries = tuple(libraries)
    for call in calls:
        literals = {name: arg.source.value for name, arg in call.args.items() if isinstance(arg.source, Const)}
        for name, value in literals.items():
            if call.type.inputs[name].path not in ("read", "source"):
                continue
            for each in value if isinstance(value, list | tuple) else [value]:
                if isinstance(each, str | Path) and os.path.isabs(each):
                    yield Path(each)
                elif isinstance(each, str):
                    found = (library.source_path(each, literals) for library in libraries)
                    yield from [path for path in found if path is not None][:1]


def files_below(path: Path) -> list[Path]:
    """The file, or the files of a folder and of those in it."""
    if not path.is_dir():
        return [path]
    inner = (Path(folder) / name for folder, _, names in os.walk(path) for name in sorted(names))
    return [each for each, _ in zip(inner, range(MOST), strict=False)]
