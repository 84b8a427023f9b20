"""The transform that merges a LoRA into the weights of a transformer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from ....graph.contract.errors import NodeError
from ....graph.contract.node import Run
from ..adapters import adapter_header, layer_table, transformer_tables
from ..adapters.adapter_match import match
from ..adapters.layer_table import LayerTable


@dataclass(frozen=True)
class Lora:
    """The transform: the adapters of one file, added to the weights.

    Attributes:
        component: Name in the repository.
        file: A safetensors file.
        scale: Factor on the change that the adapters make.
    """

    kind: ClassVar[str] = "lora"

    component: str
    file: Path
    scale: float

    def apply(self, module: Any, run: Run) -> None:
        self.apply_with((), module, run)

    def apply_with(self, others: Sequence[Lora], module: Any, run: Run, spare: Any = None) -> None:
        """Merge this LoRA and those that follow it, so that each weight is cast once.

        Args:
            others: The LoRAs that follow.
            module: A view of the component.
            run: The run whose device computes.
            spare: The component if no other value reads it, else None. It loses each weight that is replaced in the
                view.

        Raises:
            NodeError: If a file cannot be read or does not fit.
        """
        from ..adapters.adapter_merging import MatchedFile, merge

        table, files = _table(module), []
        for lora in (self, *others):
            found = match(adapter_header.read(lora.file), table, lora.component, lora.file.name)
            for problem in found.problems:
                if problem.severity == "error":
                    raise NodeError(problem)
            files.append(MatchedFile(lora.file, found, lora.scale))
        merge(module, table, files, run.device, spare)


def _table(module: Any) -> LayerTable:
    """Find the layer table for a module's configuration, or make a table with the names of its state dict only."""
    known = transformer_tables.of_config(type(module).__name__, module.config)
    shapes = {key: tuple(tensor.shape) for key, tensor in module.state_dict().items()}
    if known is not None and all(shapes.get(key) == shape for key, shape in known.shapes.items()):
        return known
    return layer_table.of_shapes(shapes)
