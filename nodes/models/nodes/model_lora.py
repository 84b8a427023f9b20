"""`model.lora`: adapters merged into the weights of the transformer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from ....graph.contract.diagnostics import Diagnostic
from ....graph.contract.errors import NodeError
from ....graph.contract.node import Reads, Run, Shares, Source, node
from ...value_facts import ModelFacts
from ..model import Model
from ..repository import hub
from ..repository.component_notes import note_file
from ..transforms import adapter_files, transform_checks
from ..transforms.transform_checks import Denoiser

if TYPE_CHECKING:
    from ..adapters.adapter_match import Match


@dataclass(frozen=True, kw_only=True)
class ModelLoraFacts(transform_checks.TransformFacts):
    """Facts of `model.lora`."""

    source: str | None = None
    scale: float | None = None
    weight_name: str | None = None
    revision: str | None = None


def _describe(facts: ModelLoraFacts) -> ModelFacts:
    return facts.model.transformed("lora", facts.component)


def _check(facts: ModelLoraFacts) -> Iterator[Diagnostic]:
    yield from transform_checks.problems("lora", facts)
    for name, value, check in (
        ("weight_name", facts.weight_name, adapter_files.check_name),
        ("revision", facts.revision, hub.check_revision),
    ):
        if value is not None:
            try:
                check(value)
            except NodeError as error:
                yield replace(error.diagnostic, place=name)
                return
    if facts.source is None:
        return
    try:
        file = adapter_files.local(facts.source, facts.weight_name)
        file = file or adapter_files.cached(facts.source, facts.weight_name, facts.revision)
        if file is not None and facts.component is not None:
            name, class_name = facts.model.repository_name(facts.component), facts.model.class_name(facts.component)
            found = _match(file, name, class_name, facts.model.config(facts.component))
            yield from found.problems if found is not None else ()
    except NodeError as error:
        yield replace(error.diagnostic, place="source")


def _match(file: Path, component: str, class_name: str, config: Mapping[str, Any]) -> Match | None:
    """Match a file with a component; None if the component's layers are not known."""
    # Import the tables of layers only for workflows with a LoRA.
    from ..adapters import adapter_header, transformer_tables
    from ..adapters.adapter_match import match

    table = transformer_tables.of_config(class_name, config) if config else None
    return None if table is None else match(adapter_header.read(file), table, component, file.name)


@node("model.lora", describe=_describe, check=_check)
def lora(
    run: Run,
    model: Annotated[Model, Reads(), Shares()],
    source: Source,
    *,
    scale: float = 1.0,
    weight_name: str | None = None,
    revision: str | None = None,
    component: Denoiser = "transformer",
) -> Model:
    """Add a LoRA to the transformer. Several of these nodes in a row add their LoRAs.

    The adapters are merged into the weights when the weights are loaded, layer by layer. So each step is as fast as
    without a LoRA. Only the output of this node has the adapters. The input model keeps its weights, and shares the
    weights of all other layers. LoRA, LoHa, LoKr, DoRA and plain differences are applied, under the names that trainers
    and other programs give to the layers. Every tensor of the file is applied or reported. A tensor for a layer of the
    transformer that cannot be applied is an error. A tensor for a text encoder, or for a layer that this transformer
    does not have, is a warning.

    Args:
        model: The model.
        source: A safetensors file, a folder that holds one, `owner/name` on the hub, or a file there:
            `owner/name/path/file.safetensors`. With random weights a file of the hub is used only if it is in the
            cache.
        scale: How strongly it acts: 0 is not at all, 1 is as it was trained. Of a DoRA it scales the change of
            direction; the magnitudes are those of the file.
        weight_name: Name of the file, where a folder or repository holds several: `name.safetensors`, or
            `folder/name.safetensors` for one that lies deeper.
        revision: Branch, tag or commit on the hub; without it, the default branch.
        component: The transformer to change; `transformer_2` is the second expert of Wan 2.2.

    Returns:
        The model with the LoRA.

    Raises:
        NodeError: If the file cannot be found, downloaded or read, or one of its tensors cannot be applied.
    """
    from ..transforms.lora_transform import Lora

    name, config = transform_checks.target(model, component)
    file, commit = adapter_files.local(source, weight_name), None
    dummy = run.options.get("weights") == "dummy"
    if file is None and (dummy or run.planning):
        file = adapter_files.cached(source, weight_name, revision)
    elif file is None:
        file, commit = adapter_files.download(source, revision, weight_name, run)
    if file is None and dummy:
        run.warn(f"{source} is not on this disk, and a run with random weights downloads nothing: it is not applied")
        return model
    run.detail(lora=source if file is None else file.name, scale=scale, **({"commit": commit} if commit else {}))
    if file is not None and not dummy:
        note_file(source, file, run)
    if file is not None:  # a plan may be made before the file is downloaded
        found = _match(file, name, transform_checks.class_name(model, name), config)
        if found is not None:
            _report(found, run)
    return model.transformed(Lora(name, file or Path(source), scale))


def _report(found: Match, run: Run) -> None:
    """Report the number of tensors of a file that are applied, and warn of the other tensors.

    Raises:
        NodeError: If a tensor for a layer of the model cannot be applied.
    """
    for problem in found.problems:
        if problem.severity == "error":
            raise NodeError(problem)
        run.warn(problem.message)
    run.detail(lora_tensors=found.applied)
