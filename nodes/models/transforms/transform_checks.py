"""What the nodes that transform a component have in common before anything is loaded. Torch-free."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from ....graph.contract.node import NodeError, Problem
from ..memory.views import misplaced
from ..model import Model

Denoiser = Literal["transformer", "transformer_2"]


def described(kind: str, **known: Any) -> dict[str, Any]:
    """The description of the model that comes out: that of the one that goes in, and one transform more."""
    model: dict[str, Any] = known.get("model") or {}
    if not model or "component" not in known:
        return model
    before = model.get("transforms", [])
    return {**model, "transforms": [*before, [kind, repository_name(model, known["component"])]]}


def repository_name(model: Mapping[str, Any], role: str) -> str:
    """Name in the repository of the component that plays a role, from a model's description."""
    return str(model.get("names", {}).get(role, role))


def compiled_whole(model: Mapping[str, Any]) -> Sequence[str]:
    """Transformers that a model's description says are compiled whole and in use, by their names in the repository."""
    whole: Sequence[str] = model.get("whole", ())
    return whole if model.get("chosen") else [name for name in whole if name == repository_name(model, "transformer")]


def problems(kind: str, **known: Any) -> Iterator[Problem]:
    """What is wrong with transforming this component of the model, as far as its description tells."""
    model: dict[str, Any] = known.get("model") or {}
    if not model or "component" not in known:
        return
    name = repository_name(model, known["component"])
    has = model.get("components", {})
    if has and name not in has:
        listed = ", ".join(sorted(has))
        yield Problem("bad-value", "component", f"{model.get('source')} has no component {name}", f"it has {listed}")
    found = misplaced(kind, [k for k, component in model.get("transforms", []) if component == name])
    if found is not None:
        yield Problem("unsupported", "model", *found)


def target(model: Model, component: str) -> tuple[str, Mapping[str, Any]]:
    """Name in the repository and configuration of the component to transform.

    Raises:
        NodeError: If the model has no such component.
    """
    name = model.name(component)
    library, _ = model.weights.repository.entry(name)
    if library != "diffusers":
        raise NodeError(f"{name} of {model.weights.repository.source} is no model of diffusers")
    return name, model.config(component)


def class_name(model: Model, name: str) -> str:
    return model.weights.repository.entry(name)[1]
