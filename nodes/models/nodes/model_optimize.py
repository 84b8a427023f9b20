"""`model.optimize`: the steps of a transformer and the decode, as fast as this machine computes them."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Literal

from ....graph.contract.cards import planned_card
from ....graph.contract.diagnostics import Diagnostic
from ....graph.contract.node import Reads, Run, Shares, node
from ...value_facts import ModelFacts
from ..attention.attention_target import Target, note_choice
from ..attention.backend_table import BACKENDS, FLASH_3_FP8, Backend
from ..model import Model
from ..transforms import quantize_choice, sensitive_layers, transform_checks
from ..transforms.optimize_transform import (
    COMPILED,
    ENCODERS,
    FastDecoder,
    Optimize,
    no_fast_decoder,
    not_compiled,
    not_rebuilt,
)
from ..transforms.quantize_transform import Quantize
from ..transforms.transform_checks import Denoiser


@dataclass(frozen=True, kw_only=True)
class ModelOptimizeFacts(transform_checks.TransformFacts):
    """Facts of `model.optimize`."""

    level: str | None = None


def _check(facts: ModelOptimizeFacts) -> Iterator[Diagnostic]:
    yield from transform_checks.problems("optimize", facts)


def _describe(facts: ModelOptimizeFacts) -> ModelFacts:
    return facts.model.transformed("optimize", facts.component)


def _own(facts: ModelOptimizeFacts) -> tuple[str, ...]:
    """The transformer of the level `fast`, whose weights the output may not share."""
    return () if facts.level != "fast" or facts.component is None else (facts.component,)


@node("model.optimize", describe=_describe, check=_check, own=_own)
def optimize(
    run: Run,
    model: Annotated[Model, Reads(), Shares()],
    *,
    level: Literal["eager", "exact", "fast"] = "exact",
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

    `fast` trades precision for time where this card gains by it, and else equals `exact`. Weights and inputs of linear
    layers are in fp8, as with `model.quantize`, if this card multiplies them faster than bfloat16. FlashAttention 3 in
    fp8 is one more candidate for attention. Layers and attention that published work found sensitive stay as they are.

    A later node replaces a choice: after `model.attention` the backend is that node's, and after `model.compile` torch
    compiles diffusers' own blocks. `model.offload` with `granularity: leaf` keeps diffusers' own blocks too, and an
    offloaded VAE its own decoder and encoder. After `model.quantize`, `fast` quantises nothing more.

    Args:
        model: The model. Adapters come before this node.
        level: `eager` is diffusers' own path with torch's own choice of attention. `fast` changes the results.
        component: The transformer. `transformer_2` is the second expert of Wan 2.2.

    Returns:
        The model with the faster transformer and decoder.

    Raises:
        NodeError: If the model has no such component, or it went through a transform that must come later.
    """
    name, config = transform_checks.target(model, component)
    if level == "eager":
        run.detail(step="eager", attention="sdpa")
        return model.transformed(Optimize(name, False, ()), run)
    device, class_name = quantize_choice.run_device(run), transform_checks.class_name(model, name)
    kernels = planned_card() is not None or importlib.util.find_spec("triton") is not None
    reason = not_rebuilt(class_name, config, device, kernels)
    dtype = str(model.weights.dtype_name(name))
    target = Target(component, config, class_name, dtype, device)
    if level == "fast":
        model = _quantized(model, name, class_name, device, run)
    found = _backends(target, level, class_name, run) if device.startswith("cuda") else []
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
    return _with_decoder(model, device, kernels, run).transformed(made, run)


def _backends(target: Target, level: str, class_name: str, run: Run) -> list[Backend]:
    """The attention backends of a level on a GPU."""
    if level != "fast":
        return target.exact_backends()
    known = sensitive_layers.LAYERS.get(class_name)
    why = "not known for this class" if known is None else known.attention
    problem = target.problem(FLASH_3_FP8)
    if why or problem is not None:
        run.detail(attention_fp8=f"not used: {why or (problem and problem.message)}")
        return target.exact_backends()
    return target.fast_backends()


def _quantized(model: Model, name: str, class_name: str, device: str, run: Run) -> Model:
    """The model in fp8 where this card multiplies it; a component that is quantised already stays as it is."""
    if any(t.kind == "quantize" and t.component == name for t in model.transforms):
        run.detail(quantize="as model.quantize before")
        return model
    if class_name not in sensitive_layers.LAYERS:
        run.detail(quantize=f"not used: {quantize_choice.no_table(class_name).message}")
        return model
    reason = quantize_choice.no_product("fp8", device, str(model.weights.dtype_name(name)))
    if reason is not None:
        run.detail(quantize=f"not used: {reason}")
        return model
    run.detail(**quantize_choice.details(model, name, "fp8", run, timed=True))
    return model.transformed(Quantize(name, "fp8", paying=True), run)


def _with_decoder(model: Model, device: str, kernels: bool, run: Run) -> Model:
    """The model with the rebuilt decoder of its VAE, if there is one. Both experts of Wan 2.2 share a VAE."""
    vae = model.name("vae")
    if vae not in model.parts() or any(t.kind == "optimize" and t.component == vae for t in model.transforms):
        return model
    class_name = transform_checks.class_name(model, vae)
    reason = no_fast_decoder(class_name, device, kernels)
    said = "rebuilt" if reason is None else f"eager: {reason}"
    run.detail(decode=said, **({"encode": said} if class_name in ENCODERS else {}))
    if reason is not None:
        return model
    return model.transformed(FastDecoder(vae, encodes=class_name in ENCODERS), run)
