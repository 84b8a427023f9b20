"""The `Run` that nodes get: where they may write, and their voice towards the observers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .events import Observer
from .ir import Call
from .node import NodeError, Run


class Context(Run):
    """The `Run` that nodes get: resolves output paths and passes what nodes say on to the observers."""

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
        self._warned: set[str] = set()

    def output(self, path: Path | str) -> Path:
        root = self.out.resolve()
        target = (root / path).resolve()
        if not target.is_relative_to(root) or target == root:
            raise NodeError(f"{path} lies outside the output folder", help="use --out to choose where a run writes")
        if target.exists() and (not self.overwrite or target in self.written):
            twice = target in self.written
            message = f"{path} was already written by this run" if twice else f"{target} exists"
            raise NodeError(message, help="give another path" if twice else "pass --overwrite, or another --out")
        target.parent.mkdir(parents=True, exist_ok=True)
        self.written.append(target)
        return target

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
