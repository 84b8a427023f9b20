"""Finds the runs in a folder, and says of each what a list of runs shows."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from ...compiler.frontend.recipe_source import LARGEST_RECORD
from ...contract.errors import UnreadableFile
from ...contract.json_reader import read_json
from ...contract.text_tables import count, seconds
from ...runtime.context import RECORD
from ...runtime.output_folder import JOURNAL, LOCK
from ..fitted_tables import fitted
from ..tables import each

DEEPEST = 6
"""Folders below the first that are searched."""
STATES = ("running", "done", "failed", "interrupted", "killed", "unreadable")
CUT = 40
"""Characters of a value in the table."""


@dataclass(frozen=True)
class RunEntry:
    """A run.

    Attributes:
        folder: Its folder.
        state: `running` while it is under way; its status; `killed` if it left no record; `unreadable` for a record
            that cannot be read.
        workflow: The name of the workflow; empty if it is not known.
        started: When it began; None if it is not known.
        seconds: How long it took.
        device: The device's name.
        inputs: Values of all inputs.
        settings: Values of `--set`.
        outputs: The files that it gave, relative to its folder.
        error: Why it failed, or cannot be read.
        differing: The inputs and settings whose values differ between runs of this workflow.
    """

    folder: Path
    state: str
    workflow: str = ""
    started: datetime | None = None
    seconds: float | None = None
    device: str = ""
    inputs: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    outputs: Sequence[str] = ()
    error: str = ""
    differing: Mapping[str, Any] = field(default_factory=dict)

    def json(self) -> dict[str, Any]:
        """The run as plain data."""
        return {
            "folder": str(self.folder),
            "workflow": self.workflow,
            "status": self.state,
            "started": None if self.started is None else self.started.isoformat(timespec="seconds"),
            "seconds": self.seconds,
            "device": self.device,
            "inputs": dict(self.inputs),
            "set": dict(self.settings),
            "differing": dict(self.differing),
            "outputs": list(self.outputs),
            "error": self.error or None,
        }


def runs_in(folder: Path) -> list[RunEntry]:
    """The runs in a folder and the folders below it, the newest first. Links are not followed."""
    found = [
        RunEntry(path, "running", started=journal_start(path)) if under_way(path) else recorded(path)
        for path in run_folders(folder)
    ]
    found.sort(key=lambda run: (run.started.timestamp() if run.started else 0.0, str(run.folder)), reverse=True)
    return _with_differing(found)


def run_folders(folder: Path) -> Iterator[Path]:
    """The folders that hold a record, or the journal of a run without one."""
    root = os.path.abspath(folder)
    for path, folders, files in os.walk(root):
        depth = len(Path(path).relative_to(root).parts)
        folders[:] = sorted(name for name in folders if not name.startswith(".")) if depth < DEEPEST else []
        if RECORD in files or JOURNAL in files:
            yield folder / Path(path).relative_to(root)


def under_way(folder: Path) -> bool:
    """Whether a run has the folder now. The lock is not made or removed."""
    from filelock import FileLock, Timeout

    lock = folder / LOCK
    if not lock.is_file() or lock.is_symlink():
        return False
    held = FileLock(lock, timeout=0, thread_local=False)
    try:
        held.acquire()
    except Timeout:
        return True
    except OSError:
        return False  # a disk without locks, or without the right to write
    held.release()
    return False


def recorded(folder: Path) -> RunEntry:
    """A run that is not under way."""
    path = folder / RECORD
    if not os.path.lexists(path):
        return RunEntry(folder, "killed", started=journal_start(folder))
    try:
        record = read_json(path, most=LARGEST_RECORD)
    except UnreadableFile as error:
        return RunEntry(folder, "unreadable", started=_changed(path), error=str(error))
    if not isinstance(record, dict) or record.get("record") != 1 or record.get("status") not in STATES:
        return RunEntry(folder, "unreadable", started=_changed(path), error=f"{path} is not the record of a run")
    return _of_record(folder, record)


def _of_record(folder: Path, record: Mapping[str, Any]) -> RunEntry:
    def mapping(name: str, of: Mapping[str, Any] = record) -> Mapping[str, Any]:
        found = of.get(name)
        return found if isinstance(found, Mapping) else {}

    took = record.get("seconds")
    took = float(took) if isinstance(took, int | float) else None
    written = _changed(folder / RECORD)
    started = None if written is None else written - timedelta(seconds=took or 0.0)
    with suppress(KeyError, TypeError, ValueError):
        started = datetime.fromisoformat(record["started"]).astimezone()
    return RunEntry(
        folder,
        str(record["status"]),
        str(mapping("workflow").get("name", "")),
        started,
        took,
        str(mapping("environment").get("device", "")),
        mapping("inputs"),
        mapping("set"),
        list(_files(mapping("outputs"))),
        str(record.get("error") or ""),
    )


def _files(outputs: Mapping[str, Any]) -> Iterator[str]:
    for value in outputs.values():
        for entry in each(value):
            if isinstance(entry, str) and re.search(r"\.\w+$", entry):
                yield entry


def journal_start(folder: Path) -> datetime | None:
    """When the run of a journal began; None if it does not say."""
    try:
        with (folder / JOURNAL).open("rb") as file:
            entry = json.loads(file.readline(1 << 16))
        return datetime.fromisoformat(entry["started"]).astimezone()
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None


def _changed(path: Path) -> datetime | None:
    try:
        return datetime.fromtimestamp(path.lstat().st_mtime).astimezone()
    except OSError:
        return None


def _with_differing(runs: list[RunEntry]) -> list[RunEntry]:
    """The runs, each with the values in which it differs from another run of its workflow."""
    values: dict[tuple[str, str], set[str]] = {}
    alike: dict[str, list[Mapping[str, Any]]] = {}
    for run in runs:
        if run.state in ("done", "failed", "interrupted"):
            alike.setdefault(run.workflow, []).append({**run.inputs, **run.settings})
    for workflow, found in alike.items():
        for name in {name for each_run in found for name in each_run}:
            values[workflow, name] = {json.dumps(each_run.get(name), default=str) for each_run in found}
    return [
        replace(
            run,
            differing={
                name: value
                for name, value in {**run.inputs, **run.settings}.items()
                if len(values.get((run.workflow, name), ())) > 1
            },
        )
        for run in runs
    ]


def run_list_text(runs: Sequence[RunEntry], base: Path, width: int | None = None) -> str:
    """The table of runs: when, folder, workflow, status, seconds, device, what differs, outputs.

    Args:
        runs: The runs.
        base: Folders are relative to it.
        width: Columns of the terminal; None for the whole table.
    """
    rows = [("when", "folder", "workflow", "status", "seconds", "device", "differs", "outputs")]
    for run in runs:
        differs = " ".join(f"{name}={_short(value)}" for name, value in run.differing.items())
        rows.append(
            (
                f"{run.started:%Y-%m-%d %H:%M}" if run.started else "-",
                os.path.relpath(run.folder, base),
                run.workflow or "-",
                run.state,
                seconds(run.seconds),
                run.device or "-",
                differs or "-",
                ", ".join(run.outputs) or (_short(run.error) if run.error else "-"),
            )
        )
    dropped = ("device", "outputs", "differs", "workflow", "when")
    return "\n".join(fitted(rows, width, flexible="outputs", drop=dropped, right=[4]))


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    text = " ".join(text.split())
    return text if len(text) <= CUT else f"{text[: CUT - 1]}…"


def size_text(size: int) -> str:
    """A size for people."""
    return count(size, "B", 1024) if size else "0 B"
