"""The `Run` that nodes receive."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..compiler.frontend.recipe_source import RECORD as RECORD
from ..compiler.ir import Call
from ..contract.errors import NodeError
from ..contract.events import Observer, Observers
from ..contract.node import Run
from ..contract.output_files import new_temporary, unwritable
from ..contract.processes import ONE_PROCESS
from ..contract.recipe_run import INPUT_FILES
from ..contract.text_tables import shortened
from ..resume.snapshot_folder import FOLDER as SNAPSHOTS
from .arguments import place_of
from .failure import Interrupted
from .output_folder import JOURNAL, LOCK, OutputFolder
from .written_files import remove, signature

if TYPE_CHECKING:
    from .used_files import UsedFiles


class Context(Run):
    """The `Run` that nodes receive: resolves output paths, and passes details and warnings on to the observers.

    Args:
        out: The path of the output folder.
        observer: Receives all events.
        device: `cpu`, `cuda` or, while planning, `meta`.
        options: Values that nodes read.
        overwrite: Replace files that exist.
        planning: See `Run`.
        folder: The output folder; None if nothing is written.

    Attributes:
        written: The files of nodes that have succeeded.
        unfinished: The files of the node at work.
        kept_files: The files that each call wrote the last time.
        environment: The values of the run while a component is loaded; empty at other times.
    """

    def __init__(
        self,
        out: Path,
        observer: Observer,
        device: str = "cpu",
        options: Mapping[str, Any] | None = None,
        overwrite: bool = False,
        planning: bool = False,
        folder: OutputFolder | None = None,
    ) -> None:
        self.out, self.observer, self.device = out, observer, device
        self.options = dict(options or {})
        self.overwrite, self.planning = overwrite, planning
        self.ranges = isinstance(observer, Observers) and observer.has_listener("range_started")
        self.call: Call | None = None
        self.used: UsedFiles | None = None
        self.environment: Mapping[Any, Any] = {}
        self.choices: dict[str, Any] = {}
        self.earlier_choices: Mapping[str, Any] = {}
        self.written: list[Path] = []
        self.unfinished: dict[Path, object] = {}
        self.kept_files: dict[str, tuple[Path, ...]] = {}
        self.ends: Callable[[], bool] | None = None
        self._temporary: list[Path] = []
        self._folder = folder
        self._over = False
        self._of_threads: dict[int, Context] = {}
        self._files = threading.RLock()
        self._warned: set[str] = set()

    def output(self, path: Path | str) -> Path:
        target = self.check(path)
        with self._files:
            if self._over:
                raise Interrupted
            try:
                if self._folder is not None:
                    self._folder.begun(target)
                target.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise unwritable(target, error) from error
            self.unfinished[target] = signature(target)
        return target

    def at_hand(self) -> Iterable[Any]:
        return tuple(self.environment.values())

    def temporary(self, target: Path) -> Path:
        if self._folder is None:
            return super().temporary(target)
        with self._files:
            if self._over:
                raise Interrupted
            try:
                made = self._folder.temporary(target)
            except OSError as error:
                raise unwritable(target, error) from error
            self._temporary.append(made)
        return made

    def write_beside(self, path: str, content: bytes) -> Path:
        """Write a file that no node writes, in one step; any thread may call this while the run is under way.

        An interrupt, or a node that fails, keeps it.

        Raises:
            NodeError: See `output`.
            Interrupted: If the run is over.
        """
        target = self.check(path)
        try:
            with self._files:
                if self._over:
                    raise Interrupted
                target.parent.mkdir(parents=True, exist_ok=True)
                made = self._folder.temporary(target) if self._folder is not None else new_temporary(target)
            try:
                made.write_bytes(content)
                with self._files:
                    if self._over:
                        raise Interrupted
                    if self._folder is not None:
                        self._folder.begun(target)
                    made.replace(target)
                    if self._folder is not None:
                        self._folder.finished(target)
                    self.written.append(target)
            finally:
                remove(made)
        except OSError as error:
            raise unwritable(target, error) from error
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
        if target in (root / LOCK, root / JOURNAL) or target.is_relative_to(root / SNAPSHOTS):
            raise NodeError(f"{target.name} is a file of the run itself", help="give another path")
        if target in self.written or target in self.unfinished:
            raise NodeError(f"{path} was already written by this run", help="give another path")
        if exists and not self.overwrite:
            raise NodeError(f"{target} exists", help="pass --overwrite, or another --out")
        return target

    def keep(self) -> None:
        """Keep the files of a node that has succeeded."""
        with self._files:
            if self._over:
                raise Interrupted
            if self._folder is not None:
                for target in self.unfinished:
                    self._folder.finished(target)
            self.written += self.unfinished
            if self.call is not None:
                self.kept_files[self.call.id] = tuple(self.unfinished)
            self._forget()

    def beside(self, observer: Observers, device: str) -> Context:
        """A context of the same run for the calls of a second thread, with its own observer and device."""
        other = self.on(device)
        other.call, other.observer, other.ranges = None, observer, observer.has_listener("range_started")
        other.unfinished, other.kept_files, other._temporary, other._of_threads = {}, {}, [], {}
        return other

    def on(self, device: str) -> Context:
        """A context of the same run for loading components onto another device."""
        other = copy.copy(self)
        other.device = device
        return other

    @contextmanager
    def as_other(self, other: Context) -> Iterator[None]:
        """Inside `with`, reports of this thread, such as those of components, count for the call of `other`."""
        self._of_threads[threading.get_ident()] = other
        try:
            yield
        finally:
            del self._of_threads[threading.get_ident()]

    def _here(self) -> Context:
        return self._of_threads.get(threading.get_ident(), self) if self._of_threads else self

    def discard(self) -> None:
        """Remove the files of a node that has not ended well, and its temporary files. Nothing is written from now on.

        Temporary files go first: a node that is still at work can no longer make an output of one.
        """
        for other in list(self._of_threads.values()):
            other.discard()
        with self._files:
            self._over = True
            for made in self._temporary:
                remove(made)
            for target, before in self.unfinished.items():
                if before is None or signature(target) != before:
                    remove(target)
                remove(target.with_name(f".{target.name}.part"))
            self._forget()

    def _forget(self) -> None:
        for made in self._temporary:
            remove(made)  # a node may have left one
        self._temporary.clear()
        self.unfinished.clear()

    def ending(self) -> bool:
        return self.ends is not None and self.ends()

    def silent(self, call: Call, ends: Callable[[], bool] | None = None, waits: bool = False) -> Context:
        """A context for a call in another thread; no observer receives its events. `ends`: see `ending`."""
        other = copy.copy(self)
        other.call, other.observer = call, Observer()
        other.ranges, other.ends, other.waits = False, ends, waits
        other.processes = ONE_PROCESS  # other ranks may not do the same now
        other._warned, other._of_threads = set(), {}
        return other

    def mute(self, messages: list[str]) -> None:
        """Pass warnings with these texts on to nobody: the check of the workflow gave them already."""
        self._warned.update(messages)

    def progress(self, done: int, total: int, label: str = "") -> None:
        here = self._here()
        here.observer.progress(here.call, done, total, label)

    def used_file(
        self,
        path: Path,
        role: str = INPUT_FILES,
        *,
        source: str | None = None,
        name: str | None = None,
        sha256: str | None = None,
    ) -> None:
        if self.used is not None:
            call = self._here().call
            self.used.note(Path(path), role, source, name, sha256, call.id if call is not None else "")

    def recipe(self) -> str | None:
        text = None if self.used is None else self.used.text(lambda: self._over, self.progress)
        if self._over:
            raise Interrupted
        return text

    def choice(self, name: str) -> Any:
        return self.earlier_choices.get(name)

    def chose(self, name: str, value: Any) -> None:
        self.choices[name] = value

    def loading(self, part: str, total: int, loaded: Callable[[], int]) -> None:
        here = self._here()
        here.observer.part_loading(here.call, part, total, loaded)

    def detail(self, **values: Any) -> None:
        here = self._here()
        here.observer.detail(here.call, values)

    def current(self) -> Call | None:
        return self._here().call

    @contextmanager
    def on_behalf(self, call: object) -> Iterator[None]:
        here = self._here()
        before = here.call
        if isinstance(call, Call):
            here.call = call
        try:
            yield
        finally:
            here.call = before

    def event(self, kind: str, **data: Any) -> None:
        here = self._here()
        here.observer.event(here.call, kind, data)

    def range(self, kind: str, name: str) -> AbstractContextManager[None]:
        return self._range(kind, name) if self.ranges else nullcontext()

    @contextmanager
    def _range(self, kind: str, name: str) -> Iterator[None]:
        here = self._here()
        call = here.call
        here.observer.range_started(call, kind, name)
        try:
            yield
        finally:
            here.observer.range_finished(call, kind, name)

    def warn(self, message: str, parameter: str | None = None) -> None:
        here = self._here()
        if parameter is not None:
            message += place_of(here.call, parameter)
        if message not in self._warned:
            self._warned.add(message)
            here.observer.warned(here.call, message)
