"""`model.compile`: a transformer compiled with torch.compile."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Annotated, Literal

from ....graph.contract.diagnostics import Diagnostic
from ....graph.contract.errors import NodeError
from ....graph.contract.node import Reads, Run, Shares, node
from ...value_facts import ModelFacts
from ..attention.backends import gpu
from ..model import Model
from ..transforms import compiler_check, transform_checks
from ..transforms.transform_checks import Denoiser


@dataclass(frozen=True, kw_only=True)
class ModelCompileFacts(transform_checks.TransformFacts):
    """Facts of `model.compile`."""

    region: str | None = None
    mode: str | None = None
    dynamic: bool | None = None


GRAPHS = ("reduce-overhead", "max-autotune")
"""Modes of torch.compile that record CUDA graphs."""


def _check(facts: ModelCompileFacts) -> Iterator[Diagnostic]:
    yield from transform_checks.problems("compile", facts)
    yield from _graph_problems(facts.region or "blocks", facts.mode or "default")
    lacking = compiler_check.lacking(gpu() is not None)
    if lacking is not None and facts.model != ModelFacts():
        yield lacking


def _graph_problems(region: str, mode: str) -> Iterator[Diagnostic]:
    """The problem of CUDA graphs of single blocks."""
    if region == "blocks" and mode in GRAPHS:
        message = (
            f"{mode} records CUDA graphs, which write the results of each block over those of the block before; "
            "region: blocks cannot have them"
        )
        help = "set region: whole, or mode: default or max-autotune-no-cudagraphs"
        yield Diagnostic("unsupported", message, "mode", help=help)


def _describe(facts: ModelCompileFacts) -> ModelFacts:
    made = facts.model.transformed("compile", facts.component)
    if made == ModelFacts() or facts.component is None or facts.region != "whole":
        return made
    return replace(made, whole=(*made.whole, made.repository_name(facts.component)))


@node("model.compile", describe=_describe, check=_check)
def compile(
    run: Run,
    model: Annotated[Model, Reads(), Shares()],
    *,
    region: Literal["blocks", "whole"] = "blocks",
    mode: Literal["default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"] = "default",
    dynamic: bool | None = False,
    component: Denoiser = "transformer",
) -> Model:
    """Compile the transformer with torch.compile at its first call.

    Only the output of this node is compiled; the input model stays as it is. Results differ from uncompiled results by
    rounding. Compiling takes half a minute or more. The details of the node that calls the transformer give the time
    spent on compiling so far as `compile_seconds`. Compiling needs a C++ compiler on a CPU, and Triton on a GPU.

    The size of a block's inputs depends on width, height, frames, batch, and the text length, which may differ between
    prompts. If batched guidance ends before the last step (`start`, `stop` of cfg.split), the batch changes, so the
    later steps have another size. With a cache gate, the blocks get only those rows of a batch that are computed, so
    their number changes from step to step.

    Args:
        model: The model. Adapters and the choice of attention come before this node.
        region: `blocks` compiles the repeated block once (`compile_repeated_blocks` of diffusers). `whole` compiles the
            whole transformer, which takes longer.
        mode: Mode of torch.compile. `reduce-overhead` and `max-autotune` record CUDA graphs, and need `region: whole`:
            all blocks share one compiled function, and each of its calls writes over the result of the call before.
        dynamic: True compiles once for all sizes, but torch compiles a batch of 1 separately. False compiles again for
            each size. Null lets torch decide when a size changes.
        component: The transformer to compile. `transformer_2` is the second expert of Wan 2.2.

    Returns:
        The model with the compiled transformer.

    Raises:
        NodeError: If the transformer is already compiled, its class does not name its repeated blocks, there is no
            compiler, or single blocks cannot have this mode.
    """
    from ..transforms.compile_transform import Compile

    lacking = compiler_check.lacking(run.device.startswith("cuda"))
    if lacking is not None and not run.planning:
        raise NodeError(lacking)
    for problem in _graph_problems(region, mode):
        raise NodeError(problem)
    name, _ = transform_checks.target(model, component)
    run.detail(compile=f"{region}, {mode}")
    return model.transformed(Compile(name, region, mode, dynamic, copies=mode in GRAPHS), run)
