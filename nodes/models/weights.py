"""The components of one model that are in memory: acquired before their first reader, dropped after their last."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ...graph.node import DoesNotFit, NodeError, Run
from . import dummy, memory, reading
from .classes import component_class, is_module
from .repository import Repository
from .views import Views

if TYPE_CHECKING:
    import torch

CONFIGURATION = {"tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"}


@dataclass
class _Held:
    value: Any
    count: int = 1


@dataclass(eq=False)
class Weights:
    """Loads, holds and drops the components of a repository.

    `acquire` and `release` count: a component is dropped when it was released as often as it was acquired. Both
    belong to the thread that runs the plan; `prefetch` may be called from one other thread at the same time. It
    brings files near and builds nothing, because the libraries' loaders change torch's default dtype, which is one
    for all threads.

    Attributes:
        repository: Where the components come from.
        dtype: Name of the dtype of parameters.
        dtypes: Names of dtypes of components that have another.
        device: Where components go: `cpu`, `cuda` or, while planning, `meta`.
        variant: Variant of the weight files, such as `fp16`.
        kind: `real`, `dummy` (random values), or `meta` (planning: shapes only).
        views: What transformed values of the model have in place of a component.
    """

    repository: Repository
    dtype: str
    device: str
    dtypes: Mapping[str, str] = field(default_factory=dict)
    variant: str | None = None
    kind: str = "real"

    def __post_init__(self) -> None:
        self.views = Views()
        self._held: dict[str, _Held] = {}
        self._sizes: dict[str, tuple[int, int]] = {}
        self._configs: dict[str, dict[str, Any]] = {}
        self._locks: dict[str, threading.Lock] = {p: threading.Lock() for p in self.repository.components}

    def acquire(self, part: str, run: Run) -> None:
        """Bring a component in, or count one more holder of it.

        Raises:
            NodeError: If it cannot be loaded.
            DoesNotFit: If the device has too little memory for it.
        """
        held = self._held.get(part)
        if held is not None:
            held.count += 1
            return
        self.repository.entry(part)
        with self._locks[part]:  # a prefetch of the same component may be downloading its files
            value = self._fitting(part, run)
            self._held[part] = _Held(value)
        facts: dict[str, Any] = {"class": type(value).__name__}
        if hasattr(value, "parameters"):
            count, size = self._sizes[part] = dummy.size(value)
            facts |= {"parameters": count, "bytes": size, "dtype": self.dtype_name(part)}
        run.detail(**{part: facts})

    def prefetch(self, part: str, run: Run) -> None:
        """Bring a component's files near: download them, read them into the page cache. Never raises."""
        if self.kind != "real" or part in self._held or part not in self._locks:
            return
        try:
            with self._locks[part]:
                if part in self._held:
                    return
                _, paths, _ = reading.bring(self.repository, part, self.variant, run)
            # Outside the lock: acquisition need not wait for this, and makes it pointless.
            reading.warm(paths, stop=lambda: part in self._held or self._locks[part].locked())
        except Exception:
            return  # acquire meets the same error in the thread that can report it

    def release(self, part: str) -> None:
        """Drop a component, if this was its last holder, and the memory it holds.

        Raises:
            NodeError: If it was not acquired.
        """
        held = self._held.get(part)
        if held is None:
            raise NodeError(f"{part} of {self.repository.source} was released but not acquired")
        held.count -= 1
        if held.count:
            return
        alive = weakref.ref(held.value)
        del self._held[part], held
        if alive() is not None:
            gc.collect()  # some modules hold reference cycles; a collection takes a quarter of a second
        if self.device.startswith("cuda"):
            import torch

            torch.cuda.empty_cache()
        elif self.device == "cpu":
            memory.trim()

    def component(self, name: str) -> Any:
        """The component itself.

        Raises:
            NodeError: If the repository has none of that name, or it was not acquired.
        """
        held = self._held.get(name)
        if held is None:
            self.repository.entry(name)
            raise NodeError(f"{name} of {self.repository.source} is not in memory: its reader does not declare it")
        return held.value

    def config(self, name: str) -> Mapping[str, Any]:
        """The configuration of a component, as its file has it.

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

        Known without loading: if the component is not in memory it is built on the meta device.
        """
        if part not in self._sizes:
            library, name = self.repository.entry(part)
            cls = component_class(self.repository.source, part, library, name, self.repository.folder / part, Run())
            self._sizes[part] = (0, 0)
            if is_module(cls):
                self._sizes[part] = dummy.size(dummy.meta_module(cls, self.config(part), self.torch_dtype(part)))
        return self._sizes[part]

    def facts(self) -> dict[str, Any]:
        facts: dict[str, Any] = {"source": self.repository.source, "dtype": self.dtype}
        if self.repository.commit:
            facts["commit"] = self.repository.commit
        if self.kind == "dummy":
            facts["weights"] = "dummy"
        if self._sizes:
            facts["parameters"] = {part: count for part, (count, _) in sorted(self._sizes.items()) if count}
        return facts

    def _fitting(self, part: str, run: Run) -> Any:
        import torch

        try:
            return self._make(part, run)
        except torch.OutOfMemoryError as error:
            size = self.parameters(part)[1]
            raise DoesNotFit(
                f"{part} of {self.repository.source} needs {size / 1e9:.1f} GB and does not fit on the device",
                help="choose a smaller dtype or a smaller model; other programs may hold memory of the device",
            ) from error

    def _make(self, part: str, run: Run) -> Any:
        if self.kind == "real":
            return reading.read(self.repository, part, self.variant, self.torch_dtype(part), self.device, run)
        library, name = self.repository.entry(part)
        cls = component_class(self.repository.source, part, library, name, self.repository.folder / part, run)
        if not is_module(cls):
            return self._small(part, cls, run)
        from .. import planning

        dtype = self.torch_dtype(part)
        if self.kind == "dummy":
            return dummy.dummy_module(cls, self.config(part), dtype, self.device)
        with planning.building() as count:
            module = dummy.meta_module(cls, self.config(part), dtype)
            count(module)
        return module

    def _small(self, part: str, cls: Any, run: Run) -> Any:
        """A tokenizer, a processor or a scheduler: the real one if its files are on this disk."""
        if hasattr(cls, "from_config"):
            return cls.from_config(dict(self.config(part)))
        folder = self.repository.folder / part
        # A tokenizer is more than its configuration: where only that was downloaded, the vocabulary is missing.
        if "tokenizer" not in part or {f.name for f in folder.glob("*")} - CONFIGURATION:
            return reading.read_small(self.repository, part, cls, folder, run)
        from . import tokenizers

        known = self.config(part) if self.repository.config_file(part) else {}
        if self.kind == "dummy":
            run.warn(f"{self.repository.source}: {part} is not on this disk; one of its size stands in for it")
        return tokenizers.stand_in(self.config(part.replace("tokenizer", "text_encoder")), known)
