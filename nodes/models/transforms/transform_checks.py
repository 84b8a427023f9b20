"""Facts and checks of all nodes that transform a component. Torch-free."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ....graph.contract.diagnostics import Diagnostic
from ....graph.contract.errors import NodeError
from ....graph.contract.facts import NodeFacts
from ...value_facts import ModelFacts, TransformKind
from ..memory.transform_order import misplaced
from ..model import Model

Denoiser = Literal["transformer", "transformer_2"]


@dataclass(frozen=True, kw_only=True)
class TransformFacts(NodeFacts):
    """Facts of every node that transforms a component of a model."""

    model: ModelFacts = ModelFacts()
    component: str | None = None


def problems(kind: TransformKind, facts: TransformFacts) -> Iterator[Diagnostic]:
    """Report why a component cannot be transformed, as far as the model's facts are known."""
    model, component = facts.model, facts.component
    if model == ModelFacts() or component is None:
        return
    name, has = model.repository_name(component), model.components
    if has and name not in has:
        message = f"{model.source} has no component {name}"
        yield Diagnostic("bad-value", message, "component", help=f"it has {', '.join(sorted(has))}")
    found = misplaced(kind, [earlier.kind for earlier in model.transforms if earlier.component == name])
    if found is not None:
        yield found


def target(model: Model, component: str) -> tuple[str, Mapping[str, Any]]:
    """Repository name and configuration of the component to transform.

    Raises:
        NodeError: If the model has no such component.
    """
    name = model.name(component)
    library, _ = model.weights.repository.entry(name)
    if library != "diffusers":
        raise NodeError(f"{name} of {model.weights.repository.source} is not a diffusers model")
    return name, model.config(component)


def class_name(model: Model, name: str) -> str:
    return model.weights.repository.entry(name)[1]
