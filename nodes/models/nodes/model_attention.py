"""`model.attention`: how a transformer, or a text encoder, computes attention."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Annotated, Any, Literal

from ....graph.contract.node import NodeError, Problem, Reads, Run, Shares, node
from ..attention import backends, encoder_attention
from ..attention.backend_table import BACKENDS, MASKS, Backend, Masks
from ..attention.backends import Reason
from ..attention.encoder_attention import EncoderAttention
from ..model import Model
from ..transforms import transform_checks
from ..transforms.attention_transform import Attention

Component = Literal["transformer", "transformer_2", "text_encoder", "text_encoder_2"]


def _check(**known: Any) -> Iterator[Problem]:
    yield from transform_checks.problems("attention", **known)
    name, kernel = known.get("backend", "auto"), known.get("kernel", "auto")
    if kernel != "auto" and name != "sage":
        yield Problem("bad-value", "kernel", f"{name} has no choice of kernels", "kernels are those of backend: sage")
        return
    if name not in BACKENDS:
        return
    backend = backends.chosen(name, kernel)
    description: Mapping[str, Any] = known.get("model") or {}
    if "component" in known:
        stored = transform_checks.repository_name(description, known["component"])
        config = description.get("configs", {}).get(known["component"], {})
        class_name = description.get("components", {}).get(stored, "")
        reason = _reason(backend, known["component"], None, config, class_name, description.get("dtype"))
    else:
        reason = backends.machine(backend)
    if reason is not None:
        yield Problem(reason.code, "backend", reason.why, reason.help)


def _reason(
    backend: Backend, component: str, device: str | None, config: Mapping[str, Any], class_name: str, dtype: str | None
) -> Reason | None:
    """Why a component cannot have a backend here, None if it can or what decides is not known."""
    machine = backends.machine(backend, device)
    if component in encoder_attention.ROLES:
        return (
            encoder_attention.misfit(backend.name, config, class_name, dtype) or machine
        )  # what no machine can do comes first
    masks: Masks = MASKS.get(class_name, "sometimes") if class_name else "never"
    head = backends.head_size(config)
    return machine or backends.model(backend, dtype=dtype, head=head, masks=masks)


@node(
    "model.attention",
    describe=partial(transform_checks.described, "attention"),
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

    Only this value of the model is changed; one that goes past this node keeps what it has. A backend that this
    machine or this model cannot use is an error, before any weights are loaded; none is replaced by another.

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
        kernel: Which kernel of SageAttention 2; the name says how it multiplies with the values. `auto` is what the
            package chooses for the GPU. Other backends, and version 1, have no choice.
        component: What to change; `transformer_2` is the second expert of Wan 2.2. `text_encoder` and
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
    known: dict[str, Any] = {"config": config, "class_name": transform_checks.class_name(model, name), "dtype": dtype}
    if kernel != "auto" and backend != "sage":
        raise NodeError(f"{backend} has no choice of kernels", help="kernels are those of backend: sage")
    if backend == "auto":
        found = [BACKENDS["sdpa"]]
        if device.startswith("cuda") and not encoder:
            exact = [b for b in BACKENDS.values() if b.exact and b.name != "sdpa"]
            found += [b for b in exact if _reason(b, component, where, **known) is None]
    else:
        found = [backends.chosen(backend, kernel)]
        reason = _reason(found[0], component, where, **known)
        if reason is not None:
            raise NodeError(reason.why, help=reason.help)
    names = [b.name for b in found]
    run.detail(attention=names[0] if len(names) == 1 else f"the fastest of {', '.join(names)}")
    if encoder:
        return model.transformed(EncoderAttention(name, encoder_attention.IMPLEMENTATIONS[names[0]]))
    return model.transformed(Attention(name, tuple(b.library for b in found)))
