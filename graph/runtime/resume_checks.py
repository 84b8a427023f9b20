"""Whether a run can go on: the reasons why it would not give the result of an uninterrupted run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..compiler.plan import Plan
from ..compiler.read_paths import files_below, read_paths
from ..contract.errors import UnreadableFile
from ..language.recipe import Recipe, differences, recipe_of
from ..resume.snapshot_file import Snapshot
from ..resume.snapshot_reading import missing_files
from ..store.fingerprints import codes_of
from .file_hashes import remembered_sha256, sha256_of


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


def code_of_plan(plan: Plan) -> dict[str, str]:
    """The hashes of the Python code of the node types of a plan, by package or file."""
    return codes_of(call.type for call in plan.calls())


def changed_code(started: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """The packages and files whose Python code is not as it was, in words. For the arguments see `code_of_plan`."""
    names = dict.fromkeys((*started, *now))
    return [f"the Python code of {name} has changed" for name in names if started.get(name) != now.get(name)]


def states_of_plan(plan: Plan) -> list[dict[str, Any]]:
    """The states of all files that a plan will read; see `file_states`."""
    return file_states(read_paths(plan.calls(), plan.loaded))


def file_states(paths: Iterable[Path]) -> list[dict[str, Any]]:
    """Files, and those in folders, as they are now, as plain data. The hash of one is None if it is not remembered."""
    found = []
    for file in {each: None for path in paths for each in files_below(path)}:
        with suppress(OSError, ValueError):
            known = file.stat()
            state = {"path": str(file), "size": known.st_size, "changed": known.st_mtime_ns}
            found.append({**state, "sha256": remembered_sha256(file)})
    return found


def changed_reads(reads: Sequence[Mapping[str, Any]], snapshot: Snapshot | None) -> Iterator[str]:
    """Those of the files of `file_states` that are not as they were, in words.

    `snapshot`: files of which it has a hash are left to `changed_files`.
    """
    used = snapshot.content["used"] if snapshot is not None else ()
    hashed = {each["path"] for each in used if each["sha256"] is not None}
    return changed_states([each for each in reads if each["path"] not in hashed])


def changed_files(snapshot: Snapshot, out: Path) -> Iterator[str]:
    """The files of a run that are not as it used or wrote them, in words."""
    for name in missing_files(snapshot.content["files"], out):
        yield f"{out / name}, which the run had written, is gone or has another size"
    yield from changed_states(snapshot.content["used"])


def changed_states(files: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """The files that are not as their states say, in words. A file with a known hash may have another time."""
    for used in files:
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
            yield f"{path} has other bytes" if used["sha256"] is not None else f"{path} has changed"
