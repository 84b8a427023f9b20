"""The transform that quantises linear layers of a transformer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from ....graph.contract.node import Run
from . import sensitive_layers
from .row_counts import row_counts

Format = Literal["fp8", "int8"]
Work = tuple[int, int, int]
"""Outputs and inputs of a layer, and rows of its input."""


@dataclass(frozen=True)
class Quantize:
    """The transform: weights of 8 bits by row, and inputs quantised by row at each call.

    Attributes:
        component: Name in the repository.
        format: `fp8` or `int8`.
        paying: Whether layers stay in the model's dtype where that is as fast on this card.
    """

    kind: ClassVar[str] = "quantize"

    component: str
    format: Format
    paying: bool = False

    def apply(self, module: Any, run: Run) -> None:
        self.apply_with((), module, run)

    def apply_with(self, others: Any, module: Any, run: Run, spare: Any = None) -> None:
        """Replace layers of a view. Other views that share the component keep their weights.

        Args:
            others: Empty, since a component is quantised once.
            module: The view.
            run: The run whose device computes.
            spare: The component if no other value reads it, else None. It loses each weight that is replaced.
        """
        import torch

        from ...support import cost_meter
        from ..row_kernels.quantized_products import QuantizedLinear

        chosen = sensitive_layers.select(module).quantized
        if self.paying and not next(module.parameters()).is_meta:  # a plan assumes that all are faster
            chosen = self._paying(chosen, module, run)
            run.detail(quantized_layers=len(chosen))
        for path in chosen:
            outer, _, last = path.rpartition(".")
            old = module.get_submodule(path)
            setattr(module.get_submodule(outer), last, QuantizedLinear.of(old, self.format, run.device))
            if spare is not None:
                with cost_meter.building():
                    empty = torch.empty_like(old.weight, device="meta")
                spare.get_submodule(path).weight = torch.nn.Parameter(empty, requires_grad=False)

    def _paying(self, chosen: tuple[str, ...], module: Any, run: Run) -> tuple[str, ...]:
        """The layers that are faster in 8 bits, timed with as many rows as they get in the run."""
        import torch

        from ..row_kernels import quantized_speed

        counts = row_counts(run, module.config)
        works: dict[Work, list[str]] = {}
        for path in chosen:
            outputs, inputs = module.get_submodule(path).weight.shape
            rows = quantized_speed.ROWS if counts is None else counts.of(path)
            works.setdefault((outputs, inputs, rows), []).append(path)
        name = f"of {self.component}, not faster in {self.format}: {sorted(works)}"
        earlier, device = run.choice(name), torch.device(run.device)
        if earlier is None:  # a resumed run times nothing again
            slower = [work for work in sorted(works) if not quantized_speed.pays(work[:2], work[2], device)]
        else:
            slower = [(outputs, inputs, rows) for outputs, inputs, rows in earlier]
        run.chose(name, [list(work) for work in slower])
        if slower:
            sizes = ", ".join(f"{outputs} x {inputs} with {rows} rows" for outputs, inputs, rows in slower)
            run.detail(not_faster=f"weights of {sizes} stay as they are: fp8 is not faster here")
        stays = {path for work in slower for path in works.get(work, ())}
        return tuple(path for path in chosen if path not in stays)


def bytes_saved(selection: sensitive_layers.Selection, element: int) -> tuple[int, int]:
    """Bytes of the selected weights before and after, for a dtype of `element` bytes; a scale has 4 bytes."""
    elements, rows = selection.weights
    return elements * element, elements + 4 * rows
