"""Make the components of a repository: from its files, with random weights, or as shapes for a plan."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ....graph.contract.node import Run
from ..repository import component_fit, dummy, reading
from ..repository.component_classes import component_class, is_module
from ..repository.repository import Repository
from .component_views import view

if TYPE_CHECKING:
    import torch

    from ..checkpoints.checkpoint_source import Checkpoint
    from ..repository.early_tensors import Tensors
    from .offloading import Offload

CONFIGURATION = {"tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"}


@dataclass(eq=False)
class ComponentLoader:
    """Makes components, and knows their configurations and sizes.

    Attributes:
        repository: The repository of the components.
        dtype: Name of the dtype of the parameters.
        dtypes: Names of dtypes, for components with another dtype than `dtype`.
        device: The device of the components: `cpu`, `cuda` or, while planning, `meta`.
        variant: Variant of the weight files, such as `fp16`.
        kind: `real`, `dummy` (random values), or `meta` (planning: shapes only).
        offload: `auto`: a component whose weights do not fit a GPU is offloaded, with a warning; or `off`.
        checkpoints: One-file checkpoints that stand for the repository's weight files, by component.
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
        self._sizes: dict[str, tuple[int, int]] = {}
        self._configs: dict[str, dict[str, Any]] = {}

    def config(self, name: str) -> Mapping[str, Any]:
        """The configuration of a component, unchanged from its file.

        Raises:
            NodeError: If there is no such component or its file cannot be read.
        """
        if name not in self._configs:
            self._configs[name] = self.repository.config(name)
        return self._configs[name]

    def reconfigure(self, name: str, config: Mapping[str, Any]) -> None:
        """Replace the configuration of a component, which is that of its file otherwise."""
        self._configs[name] = dict(config)

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

    def class_of(self, part: str, run: Run) -> Any:
        """The class of a component. Its import may take seconds. `run` receives warnings.

        Raises:
            NodeError: If there is no such component or class.
        """
        library, name = self.repository.entry(part)
        return component_class(self.repository.source, part, library, name, self.repository.folder / part, run)

    def on_meta(self, part: str) -> Any:
        """Build a component on the meta device, without holding it; None for a tokenizer or a scheduler."""
        from ...support import cost_meter

        cls = self.class_of(part, Run())
        if not is_module(cls):
            return None
        with cost_meter.building():
            return self._module_on_meta(part, cls)

    def _module_on_meta(self, part: str, cls: Any) -> torch.nn.Module:
        file = self.repository.config_file(part)
        assert file is not None
        return component_fit.on_meta(cls, self.config(part), self.torch_dtype(part), file)

    def make(
        self,
        part: str,
        run: Run,
        placed: Offload | None,
        smaller: Callable[[Any], None] | None,
        early: Tensors | None = None,
    ) -> Any:
        """Make a component. See `Weights.acquire` for the arguments and errors.

        `early`: tensors of the component that are on the device already.
        """
        device = self.device if placed is None or self.kind == "meta" else "cpu"
        if self.kind == "real" and part in self.checkpoints:
            from ..checkpoints import checkpoint_loading

            checkpoint, dtype = self.checkpoints[part], self.torch_dtype(part)
            return checkpoint_loading.read(self.repository, part, checkpoint, dtype, device, run, early)
        if self.kind == "real":
            return reading.read(self.repository, part, self.variant, self.torch_dtype(part), device, run, early)
        cls = self.class_of(part, run)
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

    def read_early(self, part: str, run: Run, stop: Callable[[], bool]) -> Tensors | None:
        """Read the tensors of a component onto the device, in another thread than that of the plan.

        Args:
            part: Name in the repository.
            run: The run.
            stop: Tells whether the tensors are not needed any more.

        Returns:
            Tensors for `make`; None if `stop` was true, or only the loader of a library can read the component.

        Raises:
            NodeError: See `make`, which raises it again.
        """
        dtype = self.torch_dtype(part)
        if part not in self.checkpoints:
            return reading.read_early(self.repository, part, self.variant, dtype, self.device, run, stop)
        from ..checkpoints import checkpoint_loading

        return checkpoint_loading.read_early(
            self.repository, part, self.checkpoints[part], dtype, self.device, run, stop
        )

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
