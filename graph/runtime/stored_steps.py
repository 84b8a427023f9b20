"""The store around the steps of a run: results come from it, and new ones go into it."""

from __future__ import annotations

import copy
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from time import perf_counter
from typing import Any

from ..compiler.ir import Ref, output_ports
from ..compiler.plan import Acquire, CallStep, LoopStep, Plan
from ..contract.array_storage import ArrayStorage
from ..contract.processes import ONE_PROCESS, Mesh, Processes
from ..resume.value_codec import Unstorable
from ..store.entries import FolderStore, Store
from ..store.fingerprints import Files
from ..store.keys import Item, Keys, Place, keys_of
from ..store.reuse import decide, load_from, reuse_of
from ..store.stored_values import NotFinite, encoded
from .arguments import Environment
from .context import Context
from .file_hashes import sha256_of
from .record import Recorder
from .reused_steps import ReusedSteps

RATE = 200e6
"""Bytes per second that a write has at least, as long as none was measured."""
COST = 0.01
"""Seconds of a write beside its bytes."""


def plan_keys(plan: Plan, device: str, options: Mapping[str, Any], mesh: Mesh) -> Keys:
    """The keys of the results of a plan."""
    return keys_of(plan, device, options, Files(plan.loaded, sha256_of), mesh)


class StoredSteps(ReusedSteps):
    """Takes results from a store, and keeps new ones that took longer to make than to write.

    Args:
        store: The store.
        plan: The plan.
        context: The run.
        recorder: The recorder of the run.
        storages: The storages of arrays of the loaded libraries.
        processes: The processes of the run, of which this is rank 0.
        elsewhere: Paths of the calls that run in other processes too.
        at_files: Gives a context for a block in which files are hashed, read or written.
        reads: Whether results come from the store. A run that goes on in the middle only keeps new ones.
        again: A loop that begins again in a run that goes on. Its result is not kept.
    """

    def __init__(
        self,
        store: Store,
        plan: Plan,
        context: Context,
        recorder: Recorder,
        storages: Sequence[ArrayStorage],
        processes: Processes = ONE_PROCESS,
        elsewhere: Collection[str] = (),
        at_files: Callable[[], AbstractContextManager[None]] = nullcontext,
        reads: bool = True,
        again: str | None = None,
    ) -> None:
        self.store, self.plan, self.recorder, self.storages, self.at_files = store, plan, recorder, storages, at_files
        packages = {call.type.function.__module__.partition(".")[0] for call in plan.calls()}
        load = load_from(store, storages, packages & set(sys.modules), context.warn)
        with at_files():
            self.keys = plan_keys(plan, context.device, context.options, processes.mesh)
            decision = decide(self.keys, load if reads else _none)
        super().__init__(reuse_of(self.keys, decision, elsewhere), context, processes)
        self.again = again
        self._rate = RATE
        self._there: Callable[[Mapping[str, Any]], Mapping[str, Any]] = dict

    def beside(self, recorder: Recorder, there: Callable[[Mapping[str, Any]], Mapping[str, Any]]) -> StoredSteps:
        """The store around the steps of a second thread.

        Args:
            recorder: Its recorder.
            there: Brings stored values to its device.
        """
        other = copy.copy(self)
        other.recorder, other._there = recorder, there
        return other

    def acquires_any(self) -> bool:
        """Whether a call runs that needs a part of a value, such as the transformer of a model."""
        readers = [step.readers for step, _ in self.plan.walk() if isinstance(step, Acquire)]
        return any(self.reuse.decision.runs_one(each, ()) for each in readers)

    def stored(self, place: Place) -> Mapping[str, Any]:
        item, loaded = self.keys.items[place], self.reuse.decision.stored.pop(place, None)
        told = loaded.content if loaded is not None else self.store.content(item.key) if item.key is not None else None
        if told is not None:
            self._tell(place[0], told)
        return self._there(loaded.values) if loaded is not None else {}

    def began(self, step: CallStep | LoopStep, environment: Environment) -> None:
        item = self._item(step, environment)
        if item is not None and item.key is not None and not self._begins_again(item):
            self.recorder.begin(item.place, perf_counter())

    def ran(self, step: CallStep | LoopStep, environment: Environment) -> None:
        item = self._item(step, environment)
        begun = self.recorder.begun.pop(item.place, None) if item is not None else None
        if item is None or item.key is None or begun is None:
            return
        node = step.call if isinstance(step, CallStep) else step.loop
        refs = {port: Ref(node.id, port) for port in output_ports(node)}
        values = {port: environment[ref] for port, ref in refs.items() if ref in environment}
        if not values:
            return
        facts = {
            "node": node.id,
            "type": step.call.type.name if isinstance(step, CallStep) else "loop",
            "workflow": self.plan.name,
            "made": time.time(),
            "used": self._used(item),
            **self.recorder.told_since(begun.mark, node.id, item.calls),
        }
        try:
            entry = encoded(values, self.storages, facts)
        except (Unstorable, NotFinite):
            return
        seconds = perf_counter() - begun.started  # on a GPU the copy has waited for the values
        size = sum(len(array.data) for _, array in entry.arrays)
        if seconds <= COST + size / self._rate:
            return
        entry = type(entry)({**entry.content, "seconds": seconds}, entry.arrays)
        self._write(item.key, entry, seconds, size)

    def _begins_again(self, item: Item) -> bool:
        """Whether a loop in the item, or the item itself, begins again in a run that goes on."""
        return self.again is not None and f"{self.again}.".startswith(f"{item.place[0]}.")

    def _tell(self, id: str, told: Mapping[str, Any]) -> None:
        """Take over what a stored result told, and the files that it used."""
        try:
            self.recorder.reuse(id, told)
            if self.context.used is not None:
                self.context.used.take_over(told["used"])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            self.context.warn(f"the stored result of {id} does not say how it was made: {type(error).__name__}")

    def _used(self, item: Item) -> list[dict[str, Any]]:
        """The files that an item and everything before it have used."""
        calls, seen, wanted = set[str](), set[Place](), [item.place]
        while wanted:
            place = wanted.pop()
            if place not in seen:
                seen.add(place)
                calls.update(self.keys.items[place].calls)
                wanted += self.keys.items[place].needs
        used = self.context.used
        return [each for each in used.places() if each["call"] in calls] if used is not None else []

    def _write(self, key: str, entry: Any, seconds: float, size: int) -> None:
        began = perf_counter()
        try:
            with self.at_files():
                self.store.write(key, entry)
        except OSError as error:
            self.context.warn(f"results are not stored: {error.strerror or error}")
            return
        took = perf_counter() - began
        if size > 1 << 20:
            self._rate = size / took
        if took > seconds:
            self.store.drop(key)

    def _item(self, step: CallStep | LoopStep, environment: Environment) -> Item | None:
        place = self.place(step.call if isinstance(step, CallStep) else step.loop, environment)
        return self.keys.items[place] if place is not None else None


def _none(_: Item) -> None:
    """No result of an item: all items run."""


def store_of(store: Store | Path | str | None) -> Store | None:
    """A store, or the store in a folder.

    Raises:
        NodeError: If the folder cannot be one.
    """
    return FolderStore(Path(store)) if isinstance(store, Path | str) else store
