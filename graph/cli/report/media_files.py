"""The files of a run in its report: pictures and clips stand in the page, other files are links."""

from __future__ import annotations

import base64
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from markupsafe import Markup

from ...contract.text_tables import count
from ..tables import each
from .run_record import RecordedRun

EMBED_ONE = 32 << 20
"""The largest file in bytes that stands in the page; a larger one is a link."""

EMBED_ALL = 96 << 20
"""The most bytes of files in one page. Browsers open pages of this size without trouble."""

PICTURES = {
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".webp": "image/webp",
    ".gif": "image/gif",
    ".avif": "image/avif",
}
CLIPS = {".mp4": "video/mp4", ".m4v": "video/mp4", ".webm": "video/webm"}


@dataclass(frozen=True)
class MediaFile:
    """A file as the template shows it.

    Attributes:
        name: The output of the workflow, or the node that wrote the file.
        path: The path in the run's folder, as text.
        kind: `picture`, `clip`, or empty for a file that is only a link, or only a name.
        data: The file as a `data:` address; empty if it does not stand in the page.
        link: The address relative to the page; empty if there is nothing to link to.
        size: Its size as text.
        note: The reason why it does not stand in the page.
    """

    name: str
    path: str
    kind: str = ""
    data: Markup = field(default_factory=Markup)
    link: str = ""
    size: str = ""
    note: str = ""


@dataclass
class Media:
    """The files of all runs of a page. `beside` is the folder of the page. `notes` are warnings for the user."""

    beside: Path
    left: int = EMBED_ALL
    notes: list[str] = field(default_factory=list)

    def files(self, run: RecordedRun) -> list[MediaFile]:
        """The outputs of a run, then other files that its nodes wrote."""
        return [self.file(run.folder, name, path) for name, path in _named(run)]

    def file(self, folder: Path, name: str, path: str) -> MediaFile:
        """A file of a run. `path` is relative to the run's folder."""
        try:
            root = folder.resolve()
            file = (root / path).resolve()
            if not file.is_relative_to(root):
                return MediaFile(name, path, note="not in the folder of the run")
            if not file.is_file():
                self.notes.append(f"{file} is no longer there")
                return MediaFile(name, path, note="no longer there")
            size = file.stat().st_size
            link = _address(file, self.beside)
            kind = "picture" if file.suffix.lower() in PICTURES else "clip" if file.suffix.lower() in CLIPS else ""
            if not kind:
                return MediaFile(name, path, link=link, size=count(size, "B", 1024))
            if size > min(EMBED_ONE, self.left):
                most = EMBED_ONE if size > EMBED_ONE else EMBED_ALL
                whose = "a file" if size > EMBED_ONE else "all files of a page"
                note = f"not in the page: {count(size, 'B', 1024)}, and {whose} may have {count(most, 'B', 1024)}"
                self.notes.append(f"{file} is a link, {note}; keep the file where it is")
                return MediaFile(name, path, link=link, size=count(size, "B", 1024), note=note)
            type = (PICTURES | CLIPS)[file.suffix.lower()]
            data = Markup(f"data:{type};base64," + base64.b64encode(file.read_bytes()).decode("ascii"))
            self.left -= size
            return MediaFile(name, path, kind, data, link, count(size, "B", 1024))
        except (OSError, ValueError) as error:
            return MediaFile(name, path, note=f"cannot be read: {getattr(error, 'strerror', None) or error}")


def _address(file: Path, folder: Path) -> str:
    """The address of a file relative to a folder. It begins with a dot, so that it is never an address elsewhere."""
    path = Path(os.path.relpath(file, folder.resolve())).as_posix()
    return quote(path if path.startswith("../") else f"./{path}")


def _named(run: RecordedRun) -> Iterator[tuple[str, str]]:
    """Name and path of each file: outputs that are paths, then files of nodes, each file once."""
    seen: set[Path] = set()
    for name, value in run.record.outputs.items():
        for entry in each(value):
            if isinstance(entry, str) and _is_file(run.folder, entry, seen, must_exist=False):
                yield name, entry
    for row in run.record.nodes:
        for output in row.outputs:
            path = output.get("path") if isinstance(output, Mapping) else None
            if isinstance(path, str) and _is_file(run.folder, path, seen, must_exist=True):
                yield row.name, os.path.relpath(Path(run.folder.resolve(), path), run.folder.resolve())


def _is_file(folder: Path, path: str, seen: set[Path], must_exist: bool) -> bool:
    """Whether a text names a file that has not been seen. An output that is text of another kind has no suffix."""
    try:
        file = Path(folder.resolve(), path).resolve()
        known = file.is_file() and file.is_relative_to(folder.resolve())
        if file in seen or (not known and (must_exist or file.suffix.lower() not in PICTURES | CLIPS)):
            return False
    except (OSError, ValueError):
        return False
    seen.add(file)
    return True


def other_outputs(record: Mapping[str, Any], shown: list[MediaFile]) -> dict[str, Any]:
    """The outputs that are no files, by name."""
    files = {file.path for file in shown}
    return {
        name: value
        for name, value in record.items()
        if not all(isinstance(entry, str) and entry in files for entry in each(value)) or value == []
    }
