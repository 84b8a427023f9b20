"""The transform that sets the attention backend of a component."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from ....graph.contract.node import Run
from ..attention.processors import choose


@dataclass(frozen=True)
class Attention:
    """The transform: one backend for all attention of a component, or the fastest of several.

    Attributes:
        component: Name in the repository.
        candidates: Names of backends in diffusers or `kernels`. Several candidates are timed; the first is the
            reference.
    """

    kind: ClassVar[str] = "attention"

    component: str
    candidates: tuple[str, ...]

    def apply(self, module: Any, run: Run) -> None:
        choose(module, self.candidates[0])
        if len(self.candidates) > 1:
            from ..attention.tuning import Tuner

            Tuner(module, self.candidates, run)
