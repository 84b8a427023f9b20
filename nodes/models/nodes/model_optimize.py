"""`model.optimize`: the steps of a transformer and the decode, as fast as this machine computes them."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Literal

from ....graph.contract.diagnostics import Diagnostic
from ....graph.contract.node import Reads, Run, Shares, node
from ...value_facts import ModelFacts
from ..attention.attention_target import Target, note_choice
from ..attention.backend_table import BACKENDS
from ..attention.backends import gpu
from ..model import Model
from ..transforms import transform_checks
from ..transforms.optimize_transform import (
    COMPILED,
    ENCODERS,
    FastDecoder,
    Optimize,
    no_fast_decoder,
    not_compiled,
    not_rebuilt,
)
from ..transforms.transform_checks import Denoiser


@dataclass(frozen=True, kw_only=True)
class ModelOptimizeFacts(transform_checks.TransformFacts):
    """Facts of `model.optimize`."""

    level: str | None = None


def _check(facts: ModelOptimizeFacts) -> Iterator[Diagnostic]:
    yield from transform_checks.problems("optimize", facts)


def _describe(facts: ModelOptimizeFacts) -> ModelFacts:
    return facts.model.transformed("optimize", facts.component)


def _device(run: Run) -> str:
    """The device of the run; in a plan without a choice of device, the GPU if this machine has one."""
    if not run.planning:
        return run.device
    device = str(run.options.get("device", "auto"))
    if device != "auto":
        return device
    return "cpu" if gpu() is None else "cuda"


@node("model.optimize", describe=_describe, check=_check)
def optimize(
    run: Run,
    model: Annotated[Model, Reads(), Shares()],
    *,
    level: Literal["eager", "exact"] = "exact",
    component: Denoiser = "transformer",
) -> Model:
    """Make each step of the transformer, and the decode, as fast as this machine allows.

    `exact` computes the same formulas in the same dtype, rounded in another order. On a GPU the transformer's blocks
    are rebuilt: kernels for everything between the matrix products, and activations inside the products. Attention is
    the fastest exact backend that is installed, as with `backend: auto` of `model.attention`. The details of this
    node name each choice that this machine or this model does not allow, with the reason; nothing fails that works with
    `eager`. Blocks that cannot be rebuilt are compiled by torch, and those that it cannot compile run as they are. On a
    CPU, and for small models, `exact` changes nothing.

    The decoders of HunyuanVideo's and Wan's VAEs are rebuilt too, in one memory layout, and so is Wan's encoder, for
    first frames. A Wan VAE in float32 then works in float16, which has as many digits as the TF32 of its convolutions
    on a GPU; chunks of frames that overflow are decoded again in float32, and a clip that overflows is encoded again,
    with a warning. Work in tiles is as before for Wan.

    A later node replaces a choice: after `model.attention` the backend is that node's, and after `model.compile` torch
    compiles diffusers' own blocks. `model.offload` with `granularity: leaf` keeps diffusers' own blocks too, and an
    offloaded VAE its own decoder and encoder.

    Args:
        model: The model. Adapters come before this node.
        level: `eager` is diffusers' own path with torch's own choice of attention.
        component: The transformer. `transformer_2` is the second expert of Wan 2.2.

    Returns:
        The model with the faster transformer and decoder.

    Raises:
        NodeError: If the model has no such component, or it went through a transform that must come later.
    """
    name, config = transform_checks.target(model, component)
    if level == "eager":
        run.detail(step="eager", attention="sdpa")
        return model.transformed(Optimize(name, False, ()))
    device, class_name = _device(run), transform_checks.class_name(model, name)
    kernels = importlib.util.find_spec("triton") is not None
    reason = not_rebuilt(class_name, config, device, kernels)
    dtype = str(model.weights.dtype_name(name))
    target = Target(component, config, class_name, dtype, device)
    found = target.exact_backends() if device.startswith("cuda") else []
    lacking = not_compiled(config, device)
    if reason is None:
        step = "rebuilt blocks"
    elif lacking is None:
        step = f"{COMPILED}: {reason}"
    else:
        step = f"eager: {reason}" + (f"; {lacking}" if lacking else "")
    run.detail(step=step)
    note_choice(run, found or [BACKENDS["sdpa"]], dtype)
    libraries = tuple(backend.library for backend in found) if len(found) > 1 else ()
    made = Optimize(name, reason is None, libraries, lacking is None)
    return _with_decoder(model, device, kernels, run).transformed(made)


def _with_decoder(model: Model, device: str, kernels: bool, run: Run) -> Model:
    """The model with the rebuilt decoder of its VAE, if there is one. Both experts of Wan 2.2 share a VAE."""
    vae = model.name("vae")
    if vae not in model.parts() or any(t.kind == "optimize" and t.component == vae for t in model.transforms):
        return model
    class_name = transform_checks.class_name(model, vae)
    reason = no_fast_decoder(class_name, device, kernels)
    said = "rebuilt" if reason is None else f"eager: {reason}"
    run.detail(decode=said, **({"encode": said} if class_name in ENCODERS else {}))
    return model if reason is not None else model.transformed(FastDecoder(vae))
