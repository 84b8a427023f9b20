"""Whether a run can go on: the reasons why it would not give the result of an uninterrupted run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..contract.errors import UnreadableFile
from ..language.recipe import Recipe, differences, recipe_of
from ..resume.snapshot_file import Snapshot
from ..resume.snapshot_reading import missing_files
from .file_hashes import sha256_of


def changes(started: Mapping[str, Any], now: Recipe, place: str) -> list[str]:
    """The differences between the recipe of a run and that of today, in words.

    Args:
        started: How the run was started.
        now: The recipe of the same workflow, values and device now.
        place: The file of `started`, for messages.

    Raises:
        UnreadableFile: If there is no recipe in it.
    """
    if "recipe" not in started:
        raise UnreadableFile(f"{place} has no recipe")
    return differences(recipe_of(started["recipe"], place), now)


def changed_files(snapshot: Snapshot, out: Path) -> Iterator[str]:
    """The files of a run that are not as it used or wrote them, in words."""
    for name in missing_files(snapshot.content["files"], out):
        yield f"{out / name}, which the run had written, is gone or has another size"
    for used in snapshot.content["used"]:
        path = Path(used["path"])
        try:
            known = path.stat()
            if used["sha256"] is None:
                same = (known.st_size, known.st_mtime_ns) == (used["size"], used["changed"])
            else:
                same = known.st_size == used["size"] and sha256_of(path) == used["sha256"]
        except FileNotFoundError:
            yield f"{path} is gone"
            continue
        except (OSError, ValueError) as error:
            yield f"{path} cannot be read: {getattr(error, 'strerror', None) or error}"
            continue
        if not same:
            yield f"{path} has other bytes"
