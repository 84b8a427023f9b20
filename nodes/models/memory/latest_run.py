"""The run that a kept component or view reports to: that of its present holder."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from ....graph.contract.node import NO_RUN, Run
from ....graph.contract.recipe_run import INPUT_FILES


class LatestRun(Run):
    """Passes what a component or a view reports on to the run that holds it.

    A session keeps them longer than a run. What loading or making them reported, the files for the recipe among it, is
    told again to each later run.
    """

    def __init__(self, run: Run) -> None:
        self.target = run
        self.device, self.planning, self.options = run.device, run.planning, run.options
        self._making = True
        self._details: dict[str, Any] = {}
        self._warnings: list[tuple[str, str | None]] = []
        self._files: list[tuple[Path, str, dict[str, str | None]]] = []

    @property
    def ranges(self) -> bool:  # type: ignore[override]
        return self.target.ranges

    def made(self) -> None:
        """Loading or making is over: from now on a report belongs to one run only."""
        self._making = False

    def begin(self, run: Run) -> None:
        """Report to another run, beginning with what loading or making reported."""
        self.target, self.options = run, run.options
        run.detail(**self._details)
        for message, parameter in self._warnings:
            run.warn(message, parameter)
        for path, role, facts in self._files:
            run.used_file(path, role, **facts)

    def rest(self) -> None:
        """Report to nobody, and keep no run alive."""
        self.target, self.options = NO_RUN, {}

    def detail(self, **values: Any) -> None:
        if self._making:
            self._details |= values
        self.target.detail(**values)

    def warn(self, message: str, parameter: str | None = None) -> None:
        if self._making:
            self._warnings.append((message, parameter))
        self.target.warn(message, parameter)

    def at_hand(self) -> Iterable[Any]:
        return self.target.at_hand()

    def choice(self, name: str) -> Any:
        return self.target.choice(name)

    def chose(self, name: str, value: Any) -> None:
        self.target.chose(name, value)

    def used_file(
        self,
        path: Path,
        role: str = INPUT_FILES,
        *,
        source: str | None = None,
        name: str | None = None,
        sha256: str | None = None,
    ) -> None:
        facts = {"source": source, "name": name, "sha256": sha256}
        if self._making:
            self._files.append((path, role, facts))
        self.target.used_file(path, role, **facts)

    def event(self, kind: str, **data: Any) -> None:
        self.target.event(kind, **data)

    def range(self, kind: str, name: str) -> AbstractContextManager[None]:
        return self.target.range(kind, name)

    def progress(self, done: int, total: int, label: str = "") -> None:
        self.target.progress(done, total, label)

    def loading(self, part: str, total: int, loaded: Callable[[], int]) -> None:
        self.target.loading(part, total, loaded)


def present(run: Run) -> Run:
    """The run itself, also behind a `LatestRun`."""
    return run.target if isinstance(run, LatestRun) else run
