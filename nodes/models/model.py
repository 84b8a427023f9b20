"""The `Model` value: a recipe (a source and transforms) whose components come in when they are first needed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from ...graph.node import Run
from ...graph.ports import Port

if TYPE_CHECKING:
    import torch

    from ..families.base import Family
    from .weights import Weights


@dataclass(frozen=True, eq=False)
class Model(Port):
    """A model repository, some of whose components may be in memory.

    The executor calls `acquire` before the first reader of a component and `release` after its last;
    `prefetch` may bring the next one in from another thread. Nodes use `component`, `config`, `dtype`.
    """

    partial: ClassVar[bool] = True

    weights: Weights
    family: Family

    def parts(self) -> tuple[str, ...]:
        """Names of the components the repository has."""
        return tuple(self.weights.repository.components)

    def acquire(self, part: str, run: Run) -> None:
        """Bring a component in: load it to the run's device, or build it (dummy weights, meta while planning)."""
        self.weights.acquire(part, run)

    def prefetch(self, part: str, run: Run) -> None:
        """Bring a component's bytes near, from another thread; an error shows at `acquire`."""
        self.weights.prefetch(part, run)

    def release(self, part: str) -> None:
        """Drop a component and the memory it holds."""
        self.weights.release(part)

    def component(self, name: str) -> Any:
        """The module, tokenizer or scheduler of that name, which has been acquired."""
        return self.weights.component(name)

    def config(self, name: str) -> Mapping[str, Any]:
        """The configuration of a component, known without its weights."""
        return self.weights.config(name)

    def dtype(self, name: str) -> torch.dtype:
        """The dtype of a component's parameters and of the tensors it takes."""
        return self.weights.torch_dtype(name)

    @property
    def device(self) -> str:
        """Where the components are: `cpu`, `cuda` or `meta`."""
        return self.weights.device

    def facts(self) -> dict[str, Any]:
        """Source, commit, dtype, family, and the number of parameters of each component known so far."""
        return {"family": self.family.name, **self.weights.facts()}
