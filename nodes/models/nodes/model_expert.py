"""`model.expert`: uses another transformer of a model as its main transformer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Annotated

from ....graph.contract.diagnostics import Diagnostic
from ....graph.contract.facts import NodeFacts, require
from ....graph.contract.node import Passes, node
from ....graph.contract.suggestions import did_you_mean
from ...value_facts import ModelFacts
from ..model import Model

ROLE = "transformer"


@dataclass(frozen=True, kw_only=True)
class ModelExpertFacts(NodeFacts):
    """Facts of `model.expert`."""

    model: ModelFacts = ModelFacts()
    component: str | None = None


def _renames(facts: ModelExpertFacts) -> Mapping[str, Mapping[str, str]]:
    return {"model": {ROLE: facts.component}} if facts.component is not None else {}


def _describe(facts: ModelExpertFacts) -> ModelFacts:
    model, component = facts.model, facts.component
    if component is None or model == ModelFacts():
        return model
    configs = {**model.configs, ROLE: model.configs[component]} if component in model.configs else model.configs
    return replace(model, names={**model.names, ROLE: model.repository_name(component)}, configs=configs)


def _check(facts: ModelExpertFacts) -> Iterator[Diagnostic]:
    components, component = facts.model.components, facts.component
    if components is None or component is None:
        return
    transformers = [name for name in components if components[name] == components.get(ROLE)]
    if component not in transformers:
        kind = f"is a {components[component]}" if component in components else "is not a component of this model"
        help = did_you_mean(component, transformers) or f"transformers of this model: {', '.join(sorted(transformers))}"
        yield Diagnostic("bad-value", f"{component} {kind}", "component", help=help)


@node("model.expert", renames=_renames, describe=_describe, check=_check)
def expert(model: Annotated[Model, Passes()], component: str) -> Model:
    """Use another transformer of the model's repository. Wan 2.2 A14B has one for noisy steps and one for later steps.

    The output shares all other components with the input model. A transformer that no node reads is not loaded.

    Args:
        model: A loaded model with several transformers.
        component: Name of the transformer in model_index.json, such as `transformer_2`.

    Returns:
        The model with this component as its transformer.

    Raises:
        NodeError: If the model has no transformer with this name.
    """
    components = {name: cls for name, (_, cls) in model.weights.repository.components.items()}
    require(_check, ModelExpertFacts(model=ModelFacts(components=components), component=component))
    return replace(model, names={**model.names, ROLE: model.name(component)})
