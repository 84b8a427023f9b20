"""The components of one model that are in memory, from their first reader to their last."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ....graph.contract.errors import NodeError
from ....graph.contract.node import Run
from ....graph.contract.process_state import released
from ...support import device_memory
from ..repository import dummy, reading
from ..repository.early_tensors import Tensors, taken_over
from . import host_memory, offloading
from .component_loading import ComponentLoader
from .component_views import Held, Views
from .device_fit import fits_early, offload_if_needed, too_large
from .idle_components import Idle, Keeper, Stamp, files_of, stamp
from .latest_run import LatestRun

if TYPE_CHECKING:
    from .offloading import Offload


@dataclass(frozen=True, eq=False)
class Early:
    """Tensors of a component on the device, and the stamp of the files that they were read from."""

    tensors: Tensors
    files: Stamp


@dataclass(eq=False)
class Weights(ComponentLoader):
    """Loads, holds and drops the components of a repository.

    A component may be held twice: on the device, and in host memory (`Offload`).

    `acquire` and `release` count: a component is dropped after as many releases as acquisitions. Only the thread that
    runs the plan may call them. One other thread may call `prefetch` at the same time. `prefetch` only reads tensors,
    and builds no module, because the libraries' loaders change torch's default dtype for all threads.

    Attributes:
        idle: Components that a session keeps without a holder.
        views: Copies of components that transformed values of the model have in place of a component.
        early: Tensors of components that came to the device before the component is acquired.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        self.views = Views()
        self._held: dict[tuple[str, Offload | None], Held] = {}
        self._chosen: dict[str, Offload] = {}
        self._locks: dict[str, threading.Lock] = {p: threading.Lock() for p in self.repository.components}
        self.early: dict[str, Early] = {}
        self._keeper: Keeper | None = None
        self.idle = Idle()

    def acquire(
        self, part: str, run: Run, placed: Offload | None = None, smaller: Callable[[Any], None] | None = None
    ) -> None:
        """Load a component, or count one more holder of it.

        Args:
            part: Name in the repository.
            run: Receives details and warnings.
            placed: Settings of offloading; None for a component on the device. One that does not fit there is offloaded
                too (`chosen`).
            smaller: Makes the weights of a copy on the meta device smaller, as a transform will make those of the
                component. A plan counts the bytes of the copy if the component is offloaded.

        Raises:
            NodeError: If the component cannot be loaded.
            DoesNotFit: If the device has too little memory for the component.
        """
        self.repository.entry(part)
        files = () if self._keeper is None else self._prepare(part, placed, self._keeper, run)
        with released(), self._locks[part]:  # a prefetch of the same component reads it to the end
            pass
        if placed is None and (part, None) not in self._held and part not in self._chosen:
            offloaded = offload_if_needed(self, part, run, early=part in self.early)
            if offloaded is not None:
                self._chosen[part] = offloaded
        placed = placed or self.chosen(part)
        held = self._held.get((part, placed))
        if held is not None:
            held.count += 1
            reused = self.idle.reuse(part, placed, run)
            if reused is not None:
                if held.run is not None:
                    held.run.begin(run)
                    held.run.rest()
                run.detail(**{part: self._facts(part, placed, held.value) | {"kept": True}}, kept=reused)
            return
        try:
            with self._locks[part]:  # a prefetch of the same component may be downloading its files
                latest = None if self._keeper is None else LatestRun(run)
                value = self._fitting(part, latest or run, placed, smaller)
                if latest is not None and self.repository.kind == "hub":
                    files = self._stamp(part)  # loading may have downloaded them
                self._held[part, placed] = Held(value, files, latest)
                if latest is not None:
                    latest.made()
                    latest.rest()
        except BaseException:
            self._forget(part)
            raise
        if hasattr(value, "parameters"):
            self._sizes[part] = dummy.size(value)
        run.detail(**{part: self._facts(part, placed, value)})

    def _facts(self, part: str, placed: Offload | None, value: Any) -> dict[str, Any]:
        facts: dict[str, Any] = {"class": type(value).__name__}
        if hasattr(value, "parameters"):
            count, size = self._sizes[part]
            facts |= {"parameters": count, "bytes": size, "dtype": self.dtype_name(part)}
            if placed is not None:
                facts |= {"offloaded": str(placed), "device_bytes": placed.resident(value)}
            elif self.kind == "meta" and offloading.offload_problem(type(value).__name__) is None:
                facts["offload_bytes"] = offloading.Offload(part).resident(value)
        return facts

    def _prepare(self, part: str, placed: Offload | None, keeper: Keeper, run: Run) -> Stamp:
        """In a session: drop an idle component whose files have changed, and make room for one that is not there."""
        now = self._stamp(part)
        for other, where in list(self.idle.since):
            if other == part and self._held[other, where].files != now:
                self.drop(other, where)
        if (part, placed or self.chosen(part)) not in self._held and part not in self.early:
            with suppress(NodeError):  # loading reports it
                keeper.make_room(self.parameters(part)[1], run)
        return now

    def _stamp(self, part: str) -> Stamp:
        return stamp(files_of(self.repository, part, self.checkpoints.get(part)))

    def keep_in(self, keeper: Keeper | None) -> None:
        """Keep components without a holder, on behalf of a session; with None, drop those that are idle."""
        self._keeper, self.views.kept = keeper, keeper is not None
        if keeper is None:
            for part, placed in list(self.idle.since):
                self.drop(part, placed)

    def chosen(self, part: str) -> Offload | None:
        """Settings of offloading for a component that does not fit on the device; None if it is not offloaded."""
        return self._chosen.get(part)

    def _forget(self, part: str) -> None:
        """Drop the choice of offloading for a component that is no longer in memory. The next load chooses again."""
        placed = self._chosen.get(part)
        if placed is not None and (part, placed) not in self._held:
            del self._chosen[part]

    def prefetch(self, part: str, run: Run, early: bool = False) -> None:
        """Download a component's files and read them into the page cache. Errors are ignored.

        Args:
            part: Name in the repository.
            run: Tells when the run ends.
            early: Read the tensors to the device too, beside an encoder that is in memory, if there is room for both.
        """
        if self.kind != "real" or self._holds(part) or part not in self._locks:
            return
        try:
            with self._locks[part]:
                if self._holds(part):
                    return
                if part in self.checkpoints:
                    paths = [file for file in (self.checkpoints[part].file,) if file is not None]
                else:
                    _, paths, _ = reading.bring(self.repository, part, self.variant, run)
                if early and self._fits_early(part, run):
                    files = self._stamp(part)
                    tensors = self.read_early(part, run, run.ending)
                    if tensors is not None:
                        self.early[part] = Early(tensors, files)
            # Outside the lock: acquisition need not wait for this, and makes it pointless.
            reading.warm(paths, stop=lambda: self._holds(part) or self._locks[part].locked() or run.ending())
        except Exception:
            return  # `acquire` raises the same error, in the thread that can report it

    def _fits_early(self, part: str, run: Run) -> bool:
        """Whether a component may be on the device now. In a session, no idle component is dropped for it."""
        held = {name for (name, _), held in tuple(self._held.items()) if held.count}
        if not fits_early(self, part, held, run):
            return False
        return self._keeper is None or self._keeper.has_room(self.parameters(part)[1], run)

    def _holds(self, part: str) -> bool:
        return any(held == part for held, _ in tuple(self._held))

    def release(self, part: str, placed: Offload | None = None) -> None:
        """Release a component. If this was the last holder, the component and its memory are dropped.

        In a session the component stays (`kept_weights`).

        Raises:
            NodeError: If the component was not acquired.
        """
        placed = placed or self.chosen(part)
        held = self._held.get((part, placed))
        if held is None:
            raise NodeError(f"{part} of {self.repository.source} was released but not acquired")
        held.count -= 1
        if held.count or (self._keeper is not None and self.idle.rest(part, placed)):
            return
        del held  # it would keep the component in memory until after `drop`
        self.drop(part, placed)

    def drop(self, part: str, placed: Offload | None) -> None:
        """Drop a component without a holder, with its views and its memory."""
        self.idle.since.pop((part, placed), None)
        self.views.drop_idle(part)
        held = self._held[part, placed]
        alive = weakref.ref(held.value)
        del self._held[part, placed], held
        self._forget(part)
        if alive() is not None:
            gc.collect()  # some modules hold reference cycles; a collection takes a quarter of a second
        if self.device.startswith("cuda"):
            import torch

            torch.cuda.empty_cache()
        if self.device == "cpu" or placed is not None:
            host_memory.trim()

    def component(self, name: str, placed: Offload | None = None) -> Any:
        """Return a component that is in memory.

        Raises:
            NodeError: If the repository has no component with this name, or the component was not acquired.
        """
        held = self._held.get((name, placed or self.chosen(name)))
        if held is None:
            self.repository.entry(name)
            raise NodeError(
                f"{name} of {self.repository.source} is not in memory: "
                "the node that uses it does not declare it with `Reads`"
            )
        return held.value

    def spare(self, part: str, placed: Offload | None = None) -> bool:
        """Whether a component is on a GPU or in a plan, and has one holder, so that a view may replace its weights.

        On a CPU, most weights are memory-mapped files, so freeing them would save nothing.
        """
        held = self._held[part, placed or self.chosen(part)]
        return (self.device.startswith("cuda") or self.kind == "meta") and placed is None and held.count == 1

    def complete(self, part: str, run: Run, placed: Offload | None = None) -> None:
        """Load again the weights that a component lost to a view, for another holder.

        Raises:
            NodeError: If the weights cannot be loaded.
            DoesNotFit: If the device has too little memory for the weights.
        """
        module = self.component(part, placed)
        if self.kind == "meta" or not hasattr(module, "parameters"):
            return
        lacking = [name for name, parameter in module.named_parameters() if parameter.is_meta]
        if not lacking:
            return
        again = dict(self._fitting(part, run, placed).named_parameters())
        for name in lacking:
            path, _, last = name.rpartition(".")
            setattr(module.get_submodule(path), last, again[name])

    def on(self, device: str, run: Run) -> Weights:
        """The components of the same files for another device. They share nothing with these.

        In a session, they include the components that an earlier run left on that device.
        """
        other = replace(self, device=device)
        if self._keeper is not None:
            other = self._keeper.shared(other, run)
        return other

    def facts(self) -> dict[str, Any]:
        facts: dict[str, Any] = {"source": self.repository.source, "dtype": self.dtype}
        if self.repository.commit:
            facts["commit"] = self.repository.commit
        if self.checkpoints:
            facts["checkpoints"] = {part: found.source for part, found in self.checkpoints.items()}
        if self.kind == "dummy":
            facts["weights"] = "dummy"
        if self._sizes:
            facts["parameters"] = {part: count for part, (count, _) in sorted(self._sizes.items()) if count}
        return facts

    def _fitting(
        self, part: str, run: Run, placed: Offload | None, smaller: Callable[[Any], None] | None = None
    ) -> Any:
        free = device_memory.free(run)
        try:
            early = self.early.pop(part, None)
            usable = early is not None and placed is None and early.files == self._stamp(part)
            tensors = taken_over(early.tensors) if early is not None and usable else None
            return self.make(part, run, placed, smaller, tensors)
        except Exception as error:
            if not device_memory.exhausted(error):
                raise
            if self._keeper is None or not self._keeper.drop_oldest(self.device):
                raise too_large(self, part, free, placed) from error
        return self._fitting(part, run, placed, smaller)
