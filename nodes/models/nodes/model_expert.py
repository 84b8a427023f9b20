"""`model.expert`: one of several transformers of a model, as the model's transformer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Annotated, Any

from ....graph.contract.node import NodeError, Passes, Problem, node
from ....graph.contract.suggestions import did_you_mean
from ..model import Model

ROLE = "transformer"


def _renames(**known: Any) -> Mapping[str, Mapping[str, str]]:
    return {"model": {ROLE: known["component"]}} if "component" in known else {}


def _describe(**known: Any) -> dict[str, Any]:
    description, component = dict(known.get("model") or {}), known.get("component")
    if component is None or not description:
        return description
    names, configs = description.get("names", {}), description.get("configs", {})
    description["names"] = {**names, ROLE: names.get(component, component)}
    if component in configs:
        description["configs"] = {**configs, ROLE: configs[component]}
    return description


def _check(**known: Any) -> Iterator[Problem]:
    components, component = (known.get("model") or {}).get("components"), known.get("component")
    if components is not None and component is not None:
        yield from _unfit(components, component)


def _unfit(components: Mapping[str, str], component: str) -> Iterator[Problem]:
    """Why a component cannot be the model's transformer. `components`: class names by name in the repository."""
    alike = [name for name in components if components[name] == components.get(ROLE)]
    if component not in alike:
        kind = f"is a {components[component]}" if component in components else "is no component of this model"
        help = did_you_mean(component, alike) or f"its transformers: {', '.join(sorted(alike))}"
        yield Problem("bad-value", "component", f"{component} {kind}", help)


@node("model.expert", renames=_renames, describe=_describe, check=_check)
def expert(model: Annotated[Model, Passes()], component: str) -> Model:
    """Take another transformer of the model's repository: Wan 2.2 A14B has one for noisy steps and one for the rest.

    Everything else is shared with the model that is given. Only what nodes read of either is loaded.

    Args:
        model: A loaded model with several transformers.
        component: Name of the one to use, as in model_index.json: `transformer_2`.

    Returns:
        The same model; whoever reads its transformer reads that one.

    Raises:
        NodeError: If the model has no transformer of that name.
    """
    components = {name: cls for name, (_, cls) in model.weights.repository.components.items()}
    for problem in _unfit(components, component):
        raise NodeError(problem.message, help=problem.help)
    return replace(model, names={**model.names, ROLE: model.name(component)})
