"""`model.offload`: keeps a component in host memory, with only a few of its blocks on the GPU at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Annotated, Literal

from pydantic import Field

from ....graph.contract.diagnostics import Diagnostic
from ....graph.contract.errors import NodeError
from ....graph.contract.facts import require
from ....graph.contract.node import Reads, Run, Shares, node
from ...support import device_memory
from ...value_facts import ModelFacts
from ..attention import encoder_attention
from ..memory.offloading import Offload, offload_problem
from ..model import Model
from ..transforms import transform_checks

Component = Literal["transformer", "transformer_2", "text_encoder", "text_encoder_2", "vae"]
COMPONENTS = ("transformer", "transformer_2", "text_encoder", "text_encoder_2", "vae")
REPEATED = ("transformer", "transformer_2")


@dataclass(frozen=True, kw_only=True)
class ModelOffloadFacts(transform_checks.TransformFacts):
    """Facts of `model.offload`."""

    granularity: str | None = None
    blocks: int | None = None
    stream: bool | None = None
    low_memory: bool | None = None


def _own(facts: ModelOffloadFacts) -> tuple[str, ...]:
    return (facts.component,) if facts.component is not None else COMPONENTS


def _describe(facts: ModelOffloadFacts) -> ModelFacts:
    made = facts.model.transformed("offload", facts.component)
    if made == ModelFacts() or facts.component is None:
        return made
    blocks = facts.blocks if facts.granularity == "blocks" else 1
    return replace(made, groups={**made.groups, made.repository_name(facts.component): blocks})


def _check(facts: ModelOffloadFacts) -> Iterator[Diagnostic]:
    yield from transform_checks.problems("offload", facts)
    if facts.component is not None:
        reason = offload_problem(facts.model.class_name(facts.component))
        if reason is not None:
            yield reason
    yield from _settings(facts)


def _settings(facts: ModelOffloadFacts) -> Iterator[Diagnostic]:
    """Report settings that conflict."""
    component, blocks = facts.component, 1 if facts.blocks is None else facts.blocks
    if facts.granularity == "leaf" and blocks != 1:
        message = "`granularity: leaf` has no blocks"
        yield Diagnostic("bad-value", message, "blocks", help="leave `blocks` out")
    elif facts.stream and blocks != 1:
        yield Diagnostic("bad-value", "with a stream, a group is one block", "blocks", help="leave `blocks` out")
    if facts.stream and component is not None and component not in REPEATED:
        message = f"a stream learns the order of groups in the first call, and {component} is called only once"
        yield Diagnostic("unsupported", message, "stream", help="leave `stream` out; only transformers can use it")
    if facts.low_memory and facts.stream is False:
        message = "`low_memory` needs a stream"
        yield Diagnostic("bad-value", message, "low_memory", help="set `stream: true` too")


@node("model.offload", describe=_describe, check=_check, own=_own)
def offload(
    run: Run,
    model: Annotated[Model, Reads(), Shares()],
    *,
    component: Component = "transformer",
    granularity: Literal["blocks", "leaf"] = "blocks",
    blocks: Annotated[int, Field(ge=1)] = 1,
    stream: bool = False,
    low_memory: bool = False,
) -> Model:
    """Keep a component in host memory, and move each part to the GPU only while it computes (group offloading).

    Use this node for a model that does not fit on the GPU. Results do not change, but every call of the component
    transfers all of its weights to the GPU. Only the output of this node is offloaded. The input model, and outputs
    with other settings, hold separate copies of the component. The node may come before or after the other transforms.
    On a CPU the node changes nothing and gives a warning. On a GPU the results were compared (one H100); the speed was
    not measured.

    Args:
        model: The model.
        component: The component to offload; each component needs a node of its own. `transformer_2` is the second
            expert of Wan 2.2.
        granularity: `blocks` moves groups of the repeated blocks; the other layers stay on the GPU for the whole call.
            `leaf` moves each linear layer and convolution separately, which takes the least memory.
        blocks: Number of blocks in a group.
        stream: Transfer the next block or layer while the current one computes. This is faster, needs GPU memory for
            two of them, and pins host memory for the whole component. Only for transformers.
        low_memory: With a stream, pin memory only for each transfer. This is slower.

    Returns:
        The model with the offloaded component.

    Raises:
        NodeError: If the model has no such component, the component is already offloaded or cannot be offloaded, or
            the settings conflict.
    """
    facts = ModelOffloadFacts(
        component=component, granularity=granularity, blocks=blocks, stream=stream, low_memory=low_memory
    )
    require(_settings, facts)
    find = encoder_attention if component in encoder_attention.ROLES else transform_checks
    name, _ = find.target(model, component)
    reason = offload_problem(transform_checks.class_name(model, name))
    if reason is not None:
        raise NodeError(reason)
    made = Offload(name, granularity, blocks, stream, low_memory)
    if device_memory.target(run) == "cpu":
        model.transformed(made)
        run.detail(offload="nothing: the run is on a CPU")
        run.warn(f"the run is on a CPU: {name} is already in host memory and is not offloaded")
        return model
    run.detail(offload=f"{name}: {made}")
    return model.transformed(made, run)
