"""The recipe of a run: the files that nodes use, hashed beside the run, and what the machine adds."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ..compiler.plan import Plan
from ..contract.recipe_run import INPUT_FILES
from ..contract.workflow_folders import bundled_name
from ..language.recipe import LONGEST, Recipe, UsedFile
from .file_hashes import Stopped, sha256_of
from .record_values import clean
from .run_environment import environment

THREADS = 2
POLL_SECONDS = 0.05


@dataclass(frozen=True)
class _Noted:
    role: str
    source: str | None
    name: str
    path: Path
    size: int
    changed: int
    call: str = ""


class UsedFiles:
    """Collects the files that a run uses, and makes its recipe.

    Args:
        plan: The plan.
        device: The device of the run.
        options: Values of the options that libraries add.
        in_files: Whether nodes write the recipe into their files.
        warn: Receives warnings.
    """

    def __init__(
        self, plan: Plan, device: str, options: Mapping[str, Any], in_files: bool, warn: Callable[[str], None]
    ) -> None:
        self.plan, self.device, self.in_files, self.warn = plan, device, in_files, warn
        decide = {each.key: each.default for library in plan.libraries for each in library.options if each.decides}
        self.options = {
            name: value for name, default in decide.items() if (value := options.get(name, default)) != default
        }
        self._noted: dict[tuple[str, str], tuple[_Noted, str | Future[str | None]]] = {}
        self._pool: ThreadPoolExecutor | None = None
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._done = self._total = 0
        self._packages = list(dict.fromkeys(name for each in plan.libraries for name in each.packages))
        self._machine: dict[str, Any] = {}

    def note(
        self, path: Path, role: str, source: str | None, name: str | None, sha256: str | None, call: str = ""
    ) -> None:
        """Note a file once, and begin to hash it. Folders and special files are not noted. `call`: who uses it."""
        if self.plan.recipe is None or self._stop.is_set():
            return
        key = (role, str(path))
        with self._lock:
            if key in self._noted:
                return
            try:
                if not path.is_file():
                    return
                known = path.stat()
            except (OSError, ValueError):
                return  # the node that reads it says why
            shown = name or (role == INPUT_FILES and bundled_name(path)) or path.name
            found: str | Future[str | None]
            if sha256 is not None:
                found = sha256
            else:
                self._total += known.st_size
                self._pool = self._pool or ThreadPoolExecutor(THREADS, thread_name_prefix="sgd-hash")
                found = self._pool.submit(self._hash, path)
            place = Path(os.path.abspath(path))
            self._noted[key] = (_Noted(role, source, shown, place, known.st_size, known.st_mtime_ns, call), found)

    def _hash(self, path: Path) -> str | None:
        def advance(count: int) -> None:
            self._done += count

        try:
            return sha256_of(path, self._stop.is_set, advance)
        except Stopped:
            return None
        except (OSError, ValueError) as error:
            self.warn(f"the recipe lacks the hash of {path.name}: {getattr(error, 'strerror', None) or error}")
            return None

    def wait(self, over: Callable[[], bool], progress: Callable[[int, int, str], None] | None = None) -> None:
        """Wait until every noted file is hashed, or until `over()`."""
        began = time.monotonic()
        while not over() and not all(isinstance(f, str) or f.done() for _, f in self._all()):
            if progress is not None and time.monotonic() - began > 0.5:
                progress(self._done, self._total, "hash files")
            time.sleep(POLL_SECONDS if time.monotonic() - began > 0.5 else 0.002)

    def recipe(self) -> Recipe | None:
        """The recipe up to now. A file that is not hashed yet has no hash."""
        known = self.plan.recipe
        if known is None:
            return None
        used: dict[str, list[UsedFile]] = {INPUT_FILES: []}
        for noted, found in self._all():
            digest: str | None = None
            if isinstance(found, str):
                digest = found
            elif found.done() and not found.cancelled():
                digest = found.result()
            used.setdefault(noted.role, []).append(UsedFile(source=noted.source, name=noted.name, sha256=digest))
        self._machine = self._machine or environment(self.device, self._packages)
        return replace(
            known.with_used(used),
            inputs=clean(known.inputs),
            settings=clean(known.settings),
            options=self.options,
            device=self._machine["device"],
            versions={"sgd": version("sgd"), **{name: self._machine[name] for name in self._packages}},
        )

    def text(self, over: Callable[[], bool], progress: Callable[[int, int, str], None]) -> str | None:
        """The recipe for a file; None if files have none, or it is too long for one."""
        if not self.in_files or self.plan.recipe is None:
            return None
        self.wait(over, progress)
        recipe = self.recipe()
        text = recipe.text() if recipe is not None else None
        if text is not None and len(text) > LONGEST:
            self.warn(f"the recipe is longer than {LONGEST >> 20} MiB, and stands in the record alone")
            return None
        return text

    def finished(self, over: Callable[[], bool]) -> dict[str, Any] | None:
        """The recipe for the record, after the last node. Ends the hashing.

        Args:
            over: Whether to wait no longer. Files that are not hashed then have no hash.
        """
        self.wait(over)
        self.close()
        recipe = self.recipe()
        return None if recipe is None else recipe.json()

    def close(self) -> None:
        """End the hashing."""
        self._stop.set()
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)

    def places(self) -> list[dict[str, Any]]:
        """The files with their places on this disk, for a run that is resumed."""
        rows = []
        for noted, found in self._all():
            digest = found if isinstance(found, str) else None
            if isinstance(found, Future) and found.done() and not found.cancelled():
                digest = found.result()
            names = {"role": noted.role, "source": noted.source, "name": noted.name}
            rows.append(
                {"path": str(noted.path), "size": noted.size, "changed": noted.changed, "sha256": digest, **names}
                | {"call": noted.call}
            )
        return rows

    def take_over(self, places: Iterable[Mapping[str, Any]]) -> None:
        """Note the files that the run had used before it was resumed: the data of `places`."""
        for each in places:
            self.note(
                Path(each["path"]), each["role"], each["source"], each["name"], each["sha256"], each.get("call", "")
            )

    def _all(self) -> list[tuple[_Noted, str | Future[str | None]]]:
        with self._lock:
            return list(self._noted.values())
