"""`model.offload`: a component in the host's memory, of which a few blocks at a time are on the GPU."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Field

from ....graph.contract.node import NodeError, Problem, Reads, Run, Shares, node
from ...support import device_memory
from ..attention import encoder_attention
from ..memory.offloading import Offload, misfit
from ..model import Model
from ..transforms import transform_checks

Component = Literal["transformer", "transformer_2", "text_encoder", "text_encoder_2", "vae"]
COMPONENTS = ("transformer", "transformer_2", "text_encoder", "text_encoder_2", "vae")
REPEATED = ("transformer", "transformer_2")


def _own(**known: Any) -> tuple[str, ...]:
    return (known["component"],) if "component" in known else COMPONENTS


def _describe(**known: Any) -> dict[str, Any]:
    made = transform_checks.described("offload", **known)
    if not made or "component" not in known:
        return made
    # The node's defaults are known; None stands for what is not.
    blocks = known.get("blocks") if known.get("granularity") == "blocks" else 1
    return {
        **made,
        "groups": {**made.get("groups", {}), transform_checks.repository_name(made, known["component"]): blocks},
    }


def _check(**known: Any) -> Iterator[Problem]:
    yield from transform_checks.problems("offload", **known)
    model = known.get("model") or {}
    if "component" in known:
        class_name = model.get("components", {}).get(transform_checks.repository_name(model, known["component"]), "")
        why = misfit(class_name)
        if why is not None:
            yield Problem("unsupported", "component", why, "it is small; leave it on the device")
    yield from _settings(**known)


def _settings(**known: Any) -> Iterator[Problem]:
    """What is wrong with the settings by themselves."""
    component, granularity = known.get("component"), known.get("granularity")
    blocks, stream, low_memory = known.get("blocks", 1), known.get("stream", False), known.get("low_memory", False)
    if granularity == "leaf" and blocks != 1:
        yield Problem("bad-value", "blocks", "there are no blocks in groups of leaves", "leave `blocks` out")
    elif stream and blocks != 1:
        yield Problem("bad-value", "blocks", "with a stream, a group is one block", "leave `blocks` out")
    if stream and component is not None and component not in REPEATED:
        why = f"a stream learns the order of groups in a first call, and {component} is called once"
        yield Problem("unsupported", "stream", why, "leave `stream` out; it is for the transformers")
    if low_memory and stream is False:
        yield Problem("bad-value", "low_memory", "`low_memory` says how a stream pins memory", "set `stream: true` too")


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
    """Keep a component in the host's memory; what of it computes is on the GPU for that long (group offloading).

    For models that do not fit: results are the same, and every call of the component brings all of it over the bus.
    Only this value has it so. A value that goes past this node, or has other settings here, holds a component of its
    own. The node may stand before or after the other transforms. On a CPU there is nothing to offload to: the
    component is used as it is, with a warning. On a GPU results were compared (one H100), and speed was not measured.

    Args:
        model: The model.
        component: What to offload; each component has a node of its own. `transformer_2` is the second expert of
            Wan 2.2.
        granularity: `blocks` brings the blocks that repeat in groups; what is in none of them stays for the whole call.
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
    given = {"component": component, "granularity": granularity, "blocks": blocks, "stream": stream}
    for problem in _settings(**given, low_memory=low_memory):
        raise NodeError(problem.message, help=problem.help)
    find = encoder_attention if component in encoder_attention.ROLES else transform_checks
    name, _ = find.target(model, component)
    why = misfit(transform_checks.class_name(model, name))
    if why is not None:
        raise NodeError(why, help="leave it on the device")
    made = Offload(name, granularity, blocks, stream, low_memory)
    changed = model.transformed(made)
    if device_memory.target(run) == "cpu":
        run.detail(offload="nothing: the run is on a CPU")
        run.warn(f"the run is on a CPU: there is nothing to offload {name} to, and it is used as it is")
        return model
    run.detail(offload=f"{name}: {made}")
    return changed
