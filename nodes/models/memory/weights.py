"""The components of one model that are in memory, from their first reader to their last."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ....graph.contract.errors import DoesNotFit, NodeError
from ....graph.contract.node import Run
from ....graph.contract.process_state import released
from ...support import device_memory
from ..repository import component_fit, dummy, reading
from ..repository.component_classes import component_class, is_module
from ..repository.repository import Repository
from . import host_memory, offloading
from .component_views import Views, view
from .idle_components import Idle, Keeper, Stamp, files_of, stamp
from .latest_run import LatestRun

if TYPE_CHECKING:
    import torch

    from ..checkpoints.checkpoint_source import Checkpoint
    from ..repository.early_tensors import Tensors
    from .offloading import Offload

CONFIGURATION = {"tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"}

EARLY_SHARE = 0.5
"""A component is brought to the device early if its weights take at most this share of the free memory. The rest is for
the nodes that work meanwhile."""

ENCODERS = ("text_encoder", "image_encoder")
"""Starts of the names of components beside which the next component is brought to the device."""

WORKING_ROOM = 0.9
"""A component whose weights take more than this share of the free memory is offloaded. The number is a guess."""


@dataclass
class _Held:
    value: Any
    files: Stamp = ()
    run: LatestRun | None = None
    count: int = 1


@dataclass(eq=False)
class Weights:
    """Loads, holds and drops the components of a repository.

    A component may be held twice: on the device, and in host memory (`Offload`).

    `acquire` and `release` count: a component is dropped after as many releases as acquisitions. Only the thread that
    runs the plan may call them. One other thread may call `prefetch` at the same time. `prefetch` only reads tensors,
    and builds no module, because the libraries' loaders change torch's default dtype for all threads.

    Attributes:
        repository: The repository of the components.
        dtype: Name of the dtype of the parameters.
        dtypes: Names of dtypes, for components with another dtype than `dtype`.
        device: The device of the components: `cpu`, `cuda` or, while planning, `meta`.
        variant: Variant of the weight files, such as `fp16`.
        kind: `real`, `dummy` (random values), or `meta` (planning: shapes only).
        offload: `auto`: a component whose weights do not fit a GPU is offloaded, with a warning; or `off`.
        checkpoints: One-file checkpoints that stand for the repository's weight files, by component.
        idle: Components that a session keeps without a holder.
        views: Copies of components that transformed values of the model have in place of a component.
    """

    repository: Repository
    dtype: str
    device: str
    dtypes: Mapping[str, str] = field(default_factory=dict)
    variant: str | None = None
    kind: str = "real"
    offload: str = "off"
    checkpoints: Mapping[str, Checkpoint] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.views = Views()
        self._held: dict[tuple[str, Offload | None], _Held] = {}
        self._chosen: dict[str, Offload] = {}
        self._sizes: dict[str, tuple[int, int]] = {}
        self._configs: dict[str, dict[str, Any]] = {}
        self._locks: dict[str, threading.Lock] = {p: threading.Lock() for p in self.repository.components}
        self._early: dict[str, Tensors] = {}
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
            self._choose(part, run)
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
                self._held[part, placed] = _Held(value, files, latest)
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
        if (part, placed or self.chosen(part)) not in self._held:
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

    def _choose(self, part: str, run: Run) -> None:
        """Offload a component instead of failing, if its weights do not fit the free memory of a GPU."""
        if self.offload != "auto" or not device_memory.target(run).startswith("cuda"):
            return
        name = f"offload {part} of {self.repository.source}"
        if run.choice(name) is not None:  # a resumed run
            if run.choice(name):
                self._chosen[part] = offloading.Offload(part)
            return
        run.chose(name, False)
        if part in self._early:  # it is on the device
            return
        free, (_, size) = device_memory.free(run), self.parameters(part)
        if free is None or size <= WORKING_ROOM * free:
            return
        library, kind = self.repository.entry(part)
        if library not in ("diffusers", "transformers") or offloading.offload_problem(kind) is not None:
            return
        run.chose(name, True)
        self._chosen[part] = placed = offloading.Offload(part)
        most = placed.resident(self.on_meta(part))
        run.warn(
            f"{part} takes {device_memory.size(size)}, and the device has {device_memory.size(free)} free, so {part} "
            f"is offloaded to host memory: at most {device_memory.size(most)} are on the device at once, which is "
            "slow; `model.offload` has other settings, and `offload: off` of model.load forbids offloading"
        )

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
                    if early and self._early_fits(part, run):
                        given = self.repository, part, self.variant, self.torch_dtype(part), self.device, run
                        tensors = reading.read_early(*given, run.ending)
                        if tensors is not None:
                            self._early[part] = tensors
            # Outside the lock: acquisition need not wait for this, and makes it pointless.
            reading.warm(paths, stop=lambda: self._holds(part) or self._locks[part].locked() or run.ending())
        except Exception:
            return  # `acquire` raises the same error, in the thread that can report it

    def _early_fits(self, part: str, run: Run) -> bool:
        """Whether a component may be on the device before its first reader: beside an encoder, with room for both."""
        encodes = any(held.startswith(ENCODERS) for held, _ in tuple(self._held))
        offloaded = run.choice(f"offload {part} of {self.repository.source}")  # of a resumed run
        if not encodes or part.startswith(ENCODERS) or offloaded or self._keeper is not None:
            return False
        free = device_memory.free(run)
        return free is not None and 0 < self.parameters(part)[1] <= EARLY_SHARE * free

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

    def config(self, name: str) -> Mapping[str, Any]:
        """The configuration of a component, unchanged from its file.

        Raises:
            NodeError: If there is no such component or its file cannot be read.
        """
        if name not in self._configs:
            self._configs[name] = self.repository.config(name)
        return self._configs[name]

    def dtype_name(self, part: str) -> str:
        return self.dtypes.get(part, self.dtype)

    def torch_dtype(self, part: str) -> torch.dtype:
        """The dtype of a component's parameters and inputs."""
        import torch

        dtype = getattr(torch, self.dtype_name(part))
        assert isinstance(dtype, torch.dtype)
        return dtype

    def parameters(self, part: str) -> tuple[int, int]:
        """Number of parameters of a component and their bytes; (0, 0) for a tokenizer or a scheduler.

        The component is not loaded: if it is not in memory, it is built on the meta device.
        """
        if part not in self._sizes:
            module = self.on_meta(part)
            self._sizes[part] = (0, 0) if module is None else dummy.size(module)
        return self._sizes[part]

    def on_meta(self, part: str) -> Any:
        """Build a component on the meta device, without holding it; None for a tokenizer or a scheduler."""
        from ...support import cost_meter

        library, name = self.repository.entry(part)
        cls = component_class(self.repository.source, part, library, name, self.repository.folder / part, Run())
        if not is_module(cls):
            return None
        with cost_meter.building():
            return self._module_on_meta(part, cls)

    def _module_on_meta(self, part: str, cls: Any) -> torch.nn.Module:
        file = self.repository.config_file(part)
        assert file is not None
        return component_fit.on_meta(cls, self.config(part), self.torch_dtype(part), file)

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
            return self._make(part, run, placed, smaller)
        except Exception as error:
            if not device_memory.exhausted(error):
                raise
            if self._keeper is None or not self._keeper.drop_oldest():
                raise self._too_large(part, free, placed) from error
        return self._fitting(part, run, placed, smaller)

    def _too_large(self, part: str, free: int | None, placed: Offload | None) -> DoesNotFit:
        size, module = self.parameters(part)[1], self.on_meta(part)
        where = "on the device" if placed is None else "in the host's memory"
        lighter = ["a smaller model"]
        if self.dtype_name(part) == "float32":
            lighter.insert(0, f"dtype bfloat16 ({size / 2e9:.1f} GB)")
        elsewhere = placed is None and self.device != "cpu" and module is not None
        if elsewhere and offloading.offload_problem(type(module).__name__) is None:
            lighter.insert(0, f"model.offload ({offloading.Offload(part).resident(module) / 1e9:.2f} GB at a time)")
        known = "" if free is None or placed is not None else f": {free / 1e9:.1f} GB are free"
        return DoesNotFit(
            f"{part} of {self.repository.source} needs {size / 1e9:.1f} GB and does not fit {where}{known}",
            help=f"try {' or '.join(lighter)}; other programs may hold memory of the device",
        )

    def _make(self, part: str, run: Run, placed: Offload | None, smaller: Callable[[Any], None] | None) -> Any:
        device = self.device if placed is None or self.kind == "meta" else "cpu"
        early = self._early.pop(part, None)
        if placed is not None:
            early = None
        if self.kind == "real" and part in self.checkpoints:
            from ..checkpoints import checkpoint_loading

            checkpoint = self.checkpoints[part]
            return checkpoint_loading.read(self.repository, part, checkpoint, self.torch_dtype(part), device, run)
        if self.kind == "real":
            return reading.read(self.repository, part, self.variant, self.torch_dtype(part), device, run, early)
        library, name = self.repository.entry(part)
        cls = component_class(self.repository.source, part, library, name, self.repository.folder / part, run)
        if not is_module(cls):
            return self._small(part, cls, run)
        from ...support import cost_meter

        reading.warn_of_config(self.repository, part, [], run)
        if self.kind == "dummy":
            self._module_on_meta(part, cls)
            return dummy.dummy_module(cls, self.config(part), self.torch_dtype(part), device)
        with cost_meter.building() as count:
            module = self._module_on_meta(part, cls)
            outline = module
            if placed is not None and smaller is not None:
                outline = view(module)
                smaller(outline)
            count(module, None if placed is None else placed.resident(outline))
        return module

    def _small(self, part: str, cls: Any, run: Run) -> Any:
        """Load a tokenizer, a processor or a scheduler; if its files are not on this disk, build a replacement."""
        if hasattr(cls, "from_config"):
            return reading.scheduler(self.repository, part, cls, run)
        folder = self.repository.folder / part
        # The configuration of a tokenizer may be downloaded without its vocabulary.
        if "tokenizer" not in part or {f.name for f in folder.glob("*")} - CONFIGURATION:
            return reading.read_small(self.repository, part, cls, folder, run)
        from ..repository import tokenizers

        known = self.config(part) if self.repository.config_file(part) else {}
        if self.kind == "dummy":
            run.warn(f"{self.repository.source}: {part} is not on this disk; a replacement of equal size is used")
        return tokenizers.stand_in(self.config(part.replace("tokenizer", "text_encoder")), known)
