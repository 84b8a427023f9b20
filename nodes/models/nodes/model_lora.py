"""`model.lora`: low-rank adapters on the transformer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

from ....graph.contract.diagnostics import Diagnostic
from ....graph.contract.errors import NodeError
from ....graph.contract.node import Reads, Run, Shares, Source, node
from ...value_facts import ModelFacts
from ..model import Model
from ..repository import hub
from ..transforms import adapter_files, transform_checks
from ..transforms.lora_transform import Lora, missing
from ..transforms.transform_checks import Denoiser


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
    lacking = missing()
    if lacking is not None and facts.source is not None:
        yield lacking
    for name, value, check in (
        ("weight_name", facts.weight_name, adapter_files.check_name),
        ("revision", facts.revision, hub.check_revision),
        ("source", facts.source, lambda source: adapter_files.local(source, facts.weight_name)),
    ):
        if isinstance(value, str):
            try:
                check(value)
            except NodeError as error:
                yield replace(error.diagnostic, place=name)
                return


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
    """Add a LoRA to the transformer; several of these nodes in a row add up.

    Only this value of the model has it: another value of the same model shares the weights, not the adapters, which
    stay apart from the weights. Formats are those that the family's pipeline in diffusers reads. Tensors for a text
    encoder are not used, with a warning. A plan does not count the adapters.

    Args:
        model: The model.
        source: A safetensors file, a folder that holds one, or `owner/name` on the hub.
        scale: How strongly it acts: 0 is not at all, 1 is as it was trained.
        weight_name: Name of the file, where a folder or repository holds several: `name.safetensors`, or
            `folder/name.safetensors` for one that lies deeper.
        revision: Branch, tag or commit on the hub; without it, the default branch.
        component: The transformer to change; `transformer_2` is the second expert of Wan 2.2.

    Returns:
        The model with the LoRA.

    Raises:
        NodeError: If the file cannot be had or read, or is for another model; or if peft is not installed.
    """
    lacking = missing()
    if lacking is not None:
        raise NodeError(lacking)
    name, _ = transform_checks.target(model, component)
    file, commit = adapter_files.local(source, weight_name), None
    if file is None and not run.planning:
        file, commit = adapter_files.download(source, revision, weight_name, run)
    run.detail(lora=source if file is None else file.name, scale=scale, **({"commit": commit} if commit else {}))
    # A plan does not read the file, and may be made before it is downloaded.
    return model.transformed(Lora(name, file or Path(source), scale, model.weights.repository.pipeline))
