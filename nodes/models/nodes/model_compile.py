"""`model.compile`: a transformer compiled with torch.compile."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Annotated, Literal

from ....graph.contract.diagnostics import Diagnostic
from ....graph.contract.errors import NodeError
from ....graph.contract.node import Reads, Run, Shares, node
from ...value_facts import ModelFacts
from ..attention.backends import gpu
from ..model import Model
from ..transforms import transform_checks
from ..transforms.transform_checks import Denoiser


@dataclass(frozen=True, kw_only=True)
class ModelCompileFacts(transform_checks.TransformFacts):
    """Facts of `model.compile`."""

    region: str | None = None
    mode: str | None = None
    dynamic: bool | None = None


def _check(facts: ModelCompileFacts) -> Iterator[Diagnostic]:
    yield from transform_checks.problems("compile", facts)
    lacking = _lacking(gpu() is not None)
    if lacking is not None and facts.model != ModelFacts():
        yield lacking


def _lacking(on_gpu: bool) -> Diagnostic | None:
    """A diagnostic if torch.compile needs a compiler that this machine does not have; else None."""
    if on_gpu:
        if importlib.util.find_spec("triton") is None:
            message = "compiling for a GPU needs the package triton, which is not installed"
            return Diagnostic("unavailable", message, "model", help="pip install triton")
        return None
    compilers = (os.environ.get("CXX", ""), "g++", "clang++")
    if any(shutil.which(name) for name in compilers if name):
        return None
    message = "compiling for a CPU needs a C++ compiler, and this machine has none"
    return Diagnostic("unavailable", message, "model", help="install g++ or clang++, or name a compiler in CXX")


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
        mode: Mode of torch.compile. `reduce-overhead` and `max-autotune` record CUDA graphs.
        dynamic: True compiles once for all sizes, but torch compiles a batch of 1 separately. False compiles again for
            each size. Null lets torch decide when a size changes.
        component: The transformer to compile. `transformer_2` is the second expert of Wan 2.2.

    Returns:
        The model with the compiled transformer.

    Raises:
        NodeError: If the transformer is already compiled, its class does not name its repeated blocks, or there is no
            compiler.
    """
    from ..transforms.compile_transform import Compile

    lacking = _lacking(run.device.startswith("cuda"))
    if lacking is not None and not run.planning:
        raise NodeError(lacking)
    name, _ = transform_checks.target(model, component)
    run.detail(compile=f"{region}, {mode}")
    return model.transformed(Compile(name, region, mode, dynamic))
