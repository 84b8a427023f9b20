"""`model.offload`: a component in the host's memory, of which a few blocks at a time are on the GPU."""

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
from ..memory.offloading import Offload, misfit
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
        reason = misfit(facts.model.class_name(facts.component))
        if reason is not None:
            yield reason
    yield from _settings(facts)


def _settings(facts: ModelOffloadFacts) -> Iterator[Diagnostic]:
    """Settings that do not go together."""
    component, blocks = facts.component, 1 if facts.blocks is None else facts.blocks
    if facts.granularity == "leaf" and blocks != 1:
        message = "there are no blocks in groups of leaves"
        yield Diagnostic("bad-value", message, "blocks", help="leave `blocks` out")
    elif facts.stream and blocks != 1:
        yield Diagnostic("bad-value", "with a stream, a group is one block", "blocks", help="leave `blocks` out")
    if facts.stream and component is not None and component not in REPEATED:
        message = f"a stream learns the order of groups in a first call, and {component} is called once"
        yield Diagnostic("unsupported", message, "stream", help="leave `stream` out; it is for the transformers")
    if facts.low_memory and facts.stream is False:
        message = "`low_memory` says how a stream pins memory"
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
    """Keep a component in the host's memory; a part of it is on the GPU while it computes (group offloading).

    For models that do not fit: results are the same, and every call of the component brings all of it over the bus.
    Only this value has it so. A value that goes past this node, or has other settings here, holds a component of its
    own. The node may stand before or after the other transforms. On a CPU there is nothing to offload to: the
    component is used as it is, with a warning. On a GPU results were compared (one H100), and speed was not measured.

    Args:
        model: The model.
        component: The component to offload; each has a node of its own. `transformer_2` is the second expert of
            Wan 2.2.
        granularity: `blocks` brings repeated blocks in groups; modules outside of them stay for the whole call.
            `leaf` brings each linear layer and convolution alone, which takes the least memory.
        blocks: Blocks of a group.
        stream: Bring the next block or layer while this one computes. Faster, needs room for two of them, and pins as
            much of the host's memory as the component takes. For the transformers.
        low_memory: With a stream, pin memory for each transfer only. Slower.

    Returns:
        The model with that component offloaded.

    Raises:
        NodeError: If the model has no such component, it is offloaded already, it cannot be, or the settings do not
            go together.
    """
    facts = ModelOffloadFacts(
        component=component, granularity=granularity, blocks=blocks, stream=stream, low_memory=low_memory
    )
    require(_settings, facts)
    find = encoder_attention if component in encoder_attention.ROLES else transform_checks
    name, _ = find.target(model, component)
    reason = misfit(transform_checks.class_name(model, name))
    if reason is not None:
        raise NodeError(reason)
    made = Offload(name, granularity, blocks, stream, low_memory)
    changed = model.transformed(made)
    if device_memory.target(run) == "cpu":
        run.detail(offload="nothing: the run is on a CPU")
        run.warn(f"the run is on a CPU: there is nothing to offload {name} to, and it is used as it is")
        return model
    run.detail(offload=f"{name}: {made}")
    return changed
