"""The `Run` that nodes receive."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..compiler.ir import Call
from ..contract.errors import NodeError
from ..contract.events import Observer
from ..contract.node import Run
from ..contract.text_tables import shortened

RECORD = "run.json"


class Context(Run):
    """The `Run` that nodes receive: resolves output paths, and passes details and warnings on to the observers."""

    def __init__(
        self,
        out: Path,
        observer: Observer,
        device: str = "cpu",
        options: Mapping[str, Any] | None = None,
        overwrite: bool = False,
        planning: bool = False,
    ) -> None:
        self.out, self.observer, self.device = out, observer, device
        self.options = dict(options or {})
        self.overwrite, self.planning = overwrite, planning
        self.call: Call | None = None
        self.written: list[Path] = []
        self.unfinished: dict[Path, object] = {}
        self._warned: set[str] = set()

    def output(self, path: Path | str) -> Path:
        target = self.check(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        self.unfinished[target] = _signature(target)
        return target

    def check(self, path: Path | str) -> Path:
        """Check the path of an output file, and make it absolute. The file's folder may not exist yet.

        Raises:
            NodeError: See `output`.
        """
        try:
            root = self.out.resolve()
            target = (root / path).resolve()
            exists = target.exists()
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise NodeError(
                f"{shortened(path)} is not a path for a file: {reason}", help="give another path"
            ) from error
        if not target.is_relative_to(root) or target == root:
            raise NodeError(f"{path} lies outside the output folder", help="use --out to choose where a run writes")
        if target == root / RECORD:
            raise NodeError(f"{RECORD} is the name of the run's record", help="give another path")
        if target in self.written or target in self.unfinished:
            raise NodeError(f"{path} was already written by this run", help="give another path")
        if exists and not self.overwrite:
            raise NodeError(f"{target} exists", help="pass --overwrite, or another --out")
        return target

    def keep(self) -> None:
        """Keep the files of a node that has succeeded."""
        self.written += self.unfinished
        self.unfinished.clear()

    def discard(self) -> None:
        """Remove the files of a node that failed, and their unfinished parts (`.NAME.part`)."""
        for target, before in self.unfinished.items():
            if before is None or _signature(target) != before:
                target.unlink(missing_ok=True)
            target.with_name(f".{target.name}.part").unlink(missing_ok=True)
        self.unfinished.clear()

    def silent(self, call: Call) -> Context:
        """A context for a call in another thread; no observer receives its events."""
        other = copy.copy(self)
        other.call, other.observer = call, Observer()
        other._warned = set()
        return other

    def progress(self, done: int, total: int, label: str = "") -> None:
        self.observer.progress(self.call, done, total, label)

    def detail(self, **values: Any) -> None:
        self.observer.detail(self.call, values)

    def event(self, kind: str, **data: Any) -> None:
        self.observer.event(self.call, kind, data)

    def warn(self, message: str) -> None:
        if message not in self._warned:
            self._warned.add(message)
            self.observer.warned(self.call, message)


def _signature(path: Path) -> object:
    """A value that changes when a file is replaced or written; None if there is no file."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns
