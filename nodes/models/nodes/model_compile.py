"""`model.compile`: the transformer through torch.compile."""

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
from ..transforms.compile_transform import Compile
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
    """The compiler that torch.compile lacks on this machine."""
    if on_gpu:
        if importlib.util.find_spec("triton") is None:
            message = "compiling for a GPU needs the package triton, which is not installed"
            return Diagnostic("unavailable", message, "model", help="pip install triton")
        return None
    compilers = (os.environ.get("CXX", ""), "g++", "clang++")
    if any(shutil.which(name) for name in compilers if name):
        return None
    message = "compiling for a CPU needs a C++ compiler, and there is none"
    return Diagnostic("unavailable", message, "model", help="install g++ or clang++, or name one in CXX")


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
    """Compile the transformer with torch.compile, when it is first called.

    Only this value of the model is compiled. Results differ from the ordinary ones by rounding. Compiling takes half
    a minute and more; the node that calls the transformer shows the seconds so far in its details, as
    `compile_seconds`. It needs a C++ compiler on a CPU, and Triton on a GPU.

    Sizes are those of all that goes into a block: width, height and frames, the batch, and the length of the text,
    which may be another one for each prompt. Where batched guidance ends before the last step (`start`, `stop` of
    cfg.split), the batch changes, and the rest of the steps has another size.

    Args:
        model: The model; adapters and the choice of attention come before.
        region: `blocks` compiles the block that repeats once (`compile_repeated_blocks` of diffusers); `whole` the
            whole transformer at once, which takes longer.
        mode: Mode of torch.compile. `reduce-overhead` and `max-autotune` record CUDA graphs.
        dynamic: Compile for any size (torch takes a batch of 1 apart in any case): false compiles anew for each, null
            lets torch decide when a size changes.
        component: The transformer to compile; `transformer_2` is the second expert of Wan 2.2.

    Returns:
        The model with that transformer compiled.

    Raises:
        NodeError: If it is compiled already, its class does not name its repeated blocks, or there is no compiler.
    """
    lacking = _lacking(run.device.startswith("cuda"))
    if lacking is not None and not run.planning:
        raise NodeError(lacking)
    name, _ = transform_checks.target(model, component)
    run.detail(compile=f"{region}, {mode}")
    return model.transformed(Compile(name, region, mode, dynamic))
