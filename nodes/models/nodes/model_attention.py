"""`model.attention`: how a transformer, or a text encoder, computes attention."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from ....graph.contract.diagnostics import Diagnostic
from ....graph.contract.errors import NodeError
from ....graph.contract.node import Reads, Run, Shares, node
from ...value_facts import ModelFacts
from ..attention import backends, encoder_attention
from ..attention.backend_table import BACKENDS, MASKS, Backend, Masks
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


@dataclass(frozen=True)
class Target:
    """The component that is to compute attention with a backend.

    Attributes:
        role: The component's role, such as `transformer`.
        config: Its configuration, empty if it is not known.
        class_name: Its class, empty if it is not known.
        dtype: Name of its dtype.
        device: Device of the run, `cpu` or `cuda`; None if it is not known.
    """

    role: str
    config: Mapping[str, Any]
    class_name: str
    dtype: str | None
    device: str | None = None

    def problem(self, backend: Backend) -> Diagnostic | None:
        """The reason for which it cannot have a backend here; None if it can, or nothing is known against it."""
        machine = backends.machine(backend, self.device)
        if self.role in encoder_attention.ROLES:  # a problem on every machine comes first
            return encoder_attention.misfit(backend.name, self.config, self.class_name, self.dtype) or machine
        masks: Masks = MASKS.get(self.class_name, "sometimes") if self.class_name else "never"
        head = backends.head_size(self.config)
        return machine or backends.model(backend, dtype=self.dtype, head=head, masks=masks)


def _describe(facts: ModelAttentionFacts) -> ModelFacts:
    return facts.model.transformed("attention", facts.component)


def _check(facts: ModelAttentionFacts) -> Iterator[Diagnostic]:
    yield from transform_checks.problems("attention", facts)
    name, kernel, role = facts.backend or "auto", facts.kernel or "auto", facts.component
    yield from _kernel_problems(name, kernel)
    if name not in BACKENDS or (kernel != "auto" and name != "sage"):
        return
    backend = backends.chosen(name, kernel)
    if role is None:
        found = backends.machine(backend)
    else:
        model = facts.model
        found = Target(role, model.config(role), model.class_name(role), model.dtype).problem(backend)
    if found is not None:
        yield found


def _kernel_problems(backend: str, kernel: str) -> Iterator[Diagnostic]:
    if kernel != "auto" and backend != "sage":
        message = f"{backend} has no choice of kernels"
        yield Diagnostic("bad-value", message, "kernel", help="kernels are those of backend: sage")


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
    component: Component = "transformer",
) -> Model:
    """Choose how the transformer, or a text encoder, computes attention.

    Only this value of the model is changed; a value that does not pass this node keeps its attention. A backend that
    this machine or this model cannot use is an error, before any weights are loaded; none is replaced by another.

    `auto` is `sdpa` on a CPU. On a GPU it measures: the first call of the transformer runs with `sdpa` and shows the
    shapes; then every exact backend that is available is timed on them, and the fastest that agrees with `sdpa` is
    used from the next call on. The choice is remembered for the device, dtype and shapes until the process ends, and
    stands in the details of the node that called the transformer.

    Text encoders run once, through transformers: they take `sdpa`, which `auto` is for them, and where their class
    can do without a bias (CLIP, Llama and Qwen can, T5 and UMT5 not) `flash`, `flash3` and `flash4`.

    Args:
        model: The model.
        backend: `sdpa`: torch's own choice of kernel. `cudnn`, `flash` (FlashAttention 2), `flash3` (Hopper), `flash4`
            and `xformers` compute the same to rounding. `sage` (SageAttention, version 1 or 2, as installed) rounds
            queries and keys to 8 bits.
        kernel: The kernel of SageAttention 2; the name says how it multiplies with the values. `auto` is the package's
            choice for the GPU. Other backends, and version 1, have no choice.
        component: The component to change; `transformer_2` is the second expert of Wan 2.2. `text_encoder` and
            `text_encoder_2` are changed by a node of their own.

    Returns:
        The model with that attention.

    Raises:
        NodeError: If the backend cannot be used here, or the model's attention is chosen or compiled already.
    """
    encoder = component in encoder_attention.ROLES
    name, config = (encoder_attention if encoder else transform_checks).target(model, component)
    device = str(run.options.get("device", "auto")) if run.planning else run.device
    dtype = str(model.weights.dtype_name(name))
    where = None if device == "auto" else device
    target = Target(component, config, transform_checks.class_name(model, name), dtype, where)
    for problem in _kernel_problems(backend, kernel):
        raise NodeError(problem)
    if backend == "auto":
        found = [BACKENDS["sdpa"]]
        if device.startswith("cuda") and not encoder:
            exact = [b for b in BACKENDS.values() if b.exact and b.name != "sdpa"]
            found += [b for b in exact if target.problem(b) is None]
    else:
        found = [backends.chosen(backend, kernel)]
        reason = target.problem(found[0])
        if reason is not None:
            raise NodeError(reason)
    names = [b.name for b in found]
    run.detail(attention=names[0] if len(names) == 1 else f"the fastest of {', '.join(names)}")
    if encoder:
        return model.transformed(EncoderAttention(name, encoder_attention.IMPLEMENTATIONS[names[0]]))
    return model.transformed(Attention(name, tuple(b.library for b in found)))
