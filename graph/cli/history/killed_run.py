"""Tells why the folder of a run has no record: the run is under way, or it was killed."""

from __future__ import annotations

from pathlib import Path

from ...contract.errors import UnreadableFile
from ...contract.text_tables import shortened


def error_without_record(folder: str) -> UnreadableFile | None:
    """The error for a folder whose run left no record; None for any other path.

    Args:
        folder: The path as the user wrote it.
    """
    path, name = Path(folder), shortened(folder)
    try:
        if not path.is_dir():
            return None
    except (OSError, ValueError):
        return None
    # Most commands read a file, and need none of these.
    from ...resume.snapshot_folder import SnapshotFolder
    from ...runtime.context import RECORD
    from ...runtime.output_folder import JOURNAL
    from .run_list import under_way

    if not (path / JOURNAL).is_file() or (path / RECORD).exists():
        return None
    if under_way(path):
        return UnreadableFile(f"the run in {name} is under way, and has no {RECORD} yet", help="wait for its end")
    again = f"run its workflow again with --out {name} --overwrite"
    help = f"`sgd resume {name}` goes on with it" if SnapshotFolder(path).has_begun() else again
    return UnreadableFile(f"the run in {name} was killed, and left no {RECORD}", help=help)
