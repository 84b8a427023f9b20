"""The changes that a component of a model may go through, and their order."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from ....graph.contract.diagnostics import Diagnostic
from ....graph.contract.node import Run


class Transform(Protocol):
    """A change to one component. Hashable: equal transforms of one component share a view.

    Attributes:
        kind: Name of the change, one of `ORDER`.
        component: Name of the component in the repository.

    A transform may also have these members:

    - `prepare(model, part, run)` is called in the thread that reads the component's files in advance, after it has read
      them. Its errors are ignored.
    - `undo` is called when the view is dropped or could not be completed.
    - `before` returns the transform as it is when another one follows it in the model.
    - `replaced` returns the details of choices that another transform replaces.
    - `apply_with` stands for `apply` in a transform that replaces weights. It also takes the following transforms of
      its kind, and the component if no other value reads it. It may then free each weight that it replaces in the
      component.
    - `planned`, an attribute: if it is true, the transform is applied in a plan too, on the meta device.
    """

    @property
    def kind(self) -> str: ...

    @property
    def component(self) -> str: ...

    def apply(self, module: Any, run: Run) -> None:
        """Change a view. The method is called once for each view, with the run that acquires the view.

        Raises:
            NodeError: If the transform cannot be applied.
        """
        ...


Recipe = tuple[Transform, ...]

ORDER = ("lora", "quantize", "optimize", "attention", "offload", "compile")
"""The order in which transforms are applied.

Adapters change weights before these are quantised. Both replace weights, which rebuilt blocks join. The hooks of
offloading must find the new weights, and compiled code must contain all changes. A choice of attention after `optimize`
replaces that of `optimize`.
A workflow has the transforms in this order too, except those in `ANYWHERE`.
"""

ANYWHERE = ("offload",)
"""Transforms that may come at any place in a workflow, because they change only where a component is."""


WEIGHTS = ("lora", "quantize")
"""Transforms that replace weights. They are the first of `ORDER`."""


def misplaced(kind: str, before: list[str]) -> Diagnostic | None:
    """The problem of a transform of this kind after transforms of the kinds `before`; None if the order is right."""
    repeated = kind in before and kind != "lora"
    if repeated:
        message = f"this component already went through model.{kind}"
        return Diagnostic("unsupported", message, "model", help="set the values at that node")
    late = [k for k in before if k not in ANYWHERE and ORDER.index(k) > ORDER.index(kind)]
    if not late or kind in ANYWHERE:
        return None
    order = ", ".join(f"model.{k}" for k in ORDER if k not in ANYWHERE)
    message = f"model.{kind} cannot come after model.{late[0]}"
    return Diagnostic("unsupported", message, "model", help=f"the order is {order}")


def before(transform: Transform, other: Transform) -> Transform:
    """A transform as it is when another one of its component follows it in the model."""
    found: Transform = transform.before(other) if hasattr(transform, "before") else transform
    return found


def replaced(transform: Transform, other: Transform) -> Mapping[str, str]:
    """The details of those choices of a transform that another one of its component replaces."""
    found: Mapping[str, str] = transform.replaced(other) if hasattr(transform, "replaced") else {}
    return found
