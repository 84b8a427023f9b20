"""The mark of a folder of stored results. No workflow file can name a file in such a folder."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

MARK = ".sgd-store"
"""The name of an empty file in the folder."""


def in_store(path: Any) -> bool:
    """Whether a path lies in a folder of stored results, or is one. Links are followed."""
    try:
        place = os.path.realpath(path)
        return any(os.path.lexists(os.path.join(folder, MARK)) for folder in _up(place))
    except (OSError, ValueError, TypeError):
        return False


def stored_problem(value: Any) -> str | None:
    """The problem of a path, or of a list of paths, that a workflow names; None if there is none."""
    for each in value if isinstance(value, list | tuple) else (value,):
        if isinstance(each, str | Path) and os.path.isabs(each) and in_store(each):
            return f"{each} lies in a folder of stored results, which no workflow can name"
    return None


def _up(place: str) -> Iterable[str]:
    while True:
        yield place
        above = os.path.dirname(place)
        if above == place:
            return
        place = above
