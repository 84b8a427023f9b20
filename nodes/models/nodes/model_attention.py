"""`model.attention`: the attention backend of a transformer or a text encoder."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Literal

from ....graph.contract.diagnostics import Diagnostic
from ....graph.contract.errors import NodeError
from ....graph.contract.node import Reads, Run, Shares, node
from ...value_facts import ModelFacts
from ..attention import backends, encoder_attention
from ..attention.attention_target import Target, note_choice
from ..attention.backend_table import BACKENDS
from ..attention.encoder_attention import EncoderAttention
from ..model import Model
from ..transforms import transform_checks
from ..transforms.attention_transform import Attention

Component = Literal["transformer", "transformer_2", "text_encoder", "text_encoder_2"]


@dataclass(frozen=True, kw_only=True)
class ModelAttentionFacts(transform_checks.TransformFacts):
    """Facts of `model.attention`."""

    backend: str | None = None
    kernel: str | None = None
    precision: str | None = None


def _describe(facts: ModelAttentionFacts) -> ModelFacts:
    return facts.model.transformed("attention", facts.component)


def _check(facts: ModelAttentionFacts) -> Iterator[Diagnostic]:
    yield from transform_checks.problems("attention", facts)
    name, kernel, role = facts.backend or "auto", facts.kernel or "auto", facts.component
    precision = facts.precision or "auto"
    wrong = list(_choice_problems(name, kernel, precision))
    yield from wrong
    if name not in BACKENDS or wrong:
        return
    backend = backends.chosen(name, kernel, precision)
    if role is None:
        found = backends.machine_problem(backend)
    else:
        model = facts.model
        found = Target(role, model.config(role), model.class_name(role), model.dtype).problem(backend)
    if found is not None:
        yield found


def _choice_problems(backend: str, kernel: str, precision: str) -> Iterator[Diagnostic]:
    if kernel != "auto" and backend != "sage":
        message = f"{backend} has no choice of kernels"
        yield Diagnostic("bad-value", message, "kernel", help="only `backend: sage` has a choice of kernels")
    if precision != "auto" and backend != "flash3":
        message = f"{backend} has no choice of precision"
        yield Diagnostic("bad-value", message, "precision", help="only `backend: flash3` computes in fp8")


@node(
    "model.attention",
    describe=_describe,
    check=_check,
    notes=backends.notes,
)
def attention(
    run: Run,
    model: Annotated[Model, Reads(), Shares()],
    *,
    backend: Literal["auto", "sdpa", "cudnn", "flash", "flash3", "flash4", "sage", "xformers"] = "auto",
    kernel: Literal["auto", "fp16_triton", "fp16_cuda", "fp8_cuda", "fp8_cuda_sm90"] = "auto",
    precision: Literal["auto", "fp8"] = "auto",
    component: Component = "transformer",
) -> Model:
    """Choose the attention backend of the transformer or of a text encoder.

    The choice applies only to the output of this node; the input model keeps its backend. A backend that this machine
    or this model cannot use is an error before any weights are loaded. No other backend replaces it.

    `auto` is `sdpa` on a CPU. On a GPU, the first call of the transformer runs with `sdpa` and shows the shapes. Then
    the node times every available exact backend on these shapes. Later calls use the fastest backend that agrees with
    `sdpa`. The cache folder keeps the choice for the card, dtype, shapes and versions. A run spends at most a second on
    timing; the next run measures what is left. The details of the node that calls the transformer show the choice, and
    whether it was measured or remembered.

    Text encoders run once, in the library transformers. `auto` is `sdpa` for them. CLIP, Llama and Qwen also take
    `flash`, `flash3` and `flash4`. T5 and UMT5 do not, since they add a bias to the scores.

    Args:
        model: The model.
        backend: `sdpa` is torch's own choice of kernel. The results of `cudnn`, `flash` (FlashAttention 2), `flash3`
            (Hopper), `flash4` and `xformers` differ from those of `sdpa` only by rounding. `sage` (the installed
            version 1 or 2 of SageAttention) rounds queries and keys to 8 bits.
        kernel: Kernel of SageAttention 2. The name gives the precision of the product with the values. `auto` is the
            package's choice for the GPU. Version 1 and other backends have no choice of kernels.
        precision: `fp8` rounds queries, keys and values to e4m3, with one scale for each head. A mean of the values is
            subtracted before and added to the result, since long sums in fp8 lose it. Only `flash3` from PyPI has it.
            `auto` is the dtype of the model.
        component: The component to change. `transformer_2` is the second expert of Wan 2.2. Each text encoder needs
            a `model.attention` node of its own.

    Returns:
        The model with the chosen attention.

    Raises:
        NodeError: If the backend cannot be used here, or if the component already has a chosen attention or is
            compiled.
    """
    encoder = component in encoder_attention.ROLES
    name, config = (encoder_attention if encoder else transform_checks).target(model, component)
    device = str(run.options.get("device", "auto")) if run.planning else run.device
    dtype = str(model.weights.dtype_name(name))
    where = None if device == "auto" else device
    target = Target(component, config, transform_checks.class_name(model, name), dtype, where)
    for problem in _choice_problems(backend, kernel, precision):
        raise NodeError(problem)
    if backend == "auto":
        found = target.exact_backends()
    else:
        found = [backends.chosen(backend, kernel, precision)]
        reason = target.problem(found[0])
        if reason is not None:
            raise NodeError(reason)
    note_choice(run, found, dtype)
    if encoder:
        return model.transformed(EncoderAttention(name, encoder_attention.IMPLEMENTATIONS[found[0].name]), run)
    return model.transformed(Attention(name, tuple(b.library for b in found)), run)
