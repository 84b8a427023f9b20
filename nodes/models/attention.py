"""`model.attention`: how a transformer, or a text encoder, computes attention."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, ClassVar, Literal

from ...graph.node import NodeError, Problem, Reads, Run, Shares, node
from . import backends, encoders, kernels, transforms
from .backend_table import BACKENDS, MASKS, Backend, Masks
from .backends import Reason
from .classes import quiet
from .encoders import EncoderAttention
from .model import Model

Component = Literal["transformer", "transformer_2", "text_encoder", "text_encoder_2"]


@dataclass(frozen=True)
class Attention:
    """The transform: one backend for every attention of a component, or the fastest of several.

    Attributes:
        component: Name in the repository.
        candidates: Names of backends in diffusers or `kernels`; with more than one they are measured, the first is
            the reference.
    """

    kind: ClassVar[str] = "attention"

    component: str
    candidates: tuple[str, ...]

    def apply(self, module: Any, run: Run) -> None:
        choose(module, self.candidates[0])
        if len(self.candidates) > 1:
            from .tuning import Tuner

            Tuner(module, self.candidates, run)


def choose(module: Any, backend: str) -> None:
    """Give a view's attention a backend, by the name it has in diffusers or in `kernels`.

    diffusers makes its own the default of the process as well, which is put back.

    Raises:
        NodeError: If nothing in the module can be given a backend, or the backend cannot be used after all.
    """
    from diffusers.models.attention_dispatch import _AttentionBackendRegistry as Registry

    if not hasattr(module, "set_attention_backend"):
        raise NodeError(f"{type(module).__name__} has no choice of attention")
    before, _ = Registry.get_active_backend()
    try:
        with quiet():
            if backend in kernels.KERNELS:
                member = kernels.name(backend)  # diffusers' method takes only names it knows
                for processor in processors(module):
                    processor._attention_backend = member
            else:
                module.set_attention_backend(backend)
    except Exception as error:
        raise NodeError(f"attention cannot be {backend}: {error}") from error
    finally:
        Registry.set_active_backend(before)
    if backend not in chosen(module):
        raise NodeError(f"{type(module).__name__} has no attention that can be given a backend")


def chosen(module: Any) -> set[str]:
    """The backends that the attention of a module was given, by diffusers' names."""
    found = (processor._attention_backend for processor in processors(module))
    return {str(getattr(backend, "value", backend)) for backend in found if backend is not None}


def processors(module: Any) -> list[Any]:
    """The processors of the attention of a module that have a choice of backend."""
    found = (getattr(part, "processor", None) for part in module.modules())
    return [processor for processor in found if hasattr(processor, "_attention_backend")]


def _check(**known: Any) -> Iterator[Problem]:
    yield from transforms.problems("attention", **known)
    name, kernel = known.get("backend", "auto"), known.get("kernel", "auto")
    if kernel != "auto" and name != "sage":
        yield Problem("bad-value", "kernel", f"{name} has no choice of kernels", "kernels are those of backend: sage")
        return
    if name not in BACKENDS:
        return
    backend = backends.chosen(name, kernel)
    description: Mapping[str, Any] = known.get("model") or {}
    if "component" in known:
        stored = transforms.repository_name(description, known["component"])
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
    if component in encoders.ROLES:
        return encoders.misfit(backend.name, config, class_name, dtype) or machine  # what no machine can do comes first
    masks: Masks = MASKS.get(class_name, "sometimes") if class_name else "never"
    head = backends.head_size(config)
    return machine or backends.model(backend, dtype=dtype, head=head, masks=masks)


@node(
    "model.attention",
    describe=partial(transforms.described, "attention"),
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
    encoder = component in encoders.ROLES
    name, config = (encoders if encoder else transforms).target(model, component)
    device = str(run.options.get("device", "auto")) if run.planning else run.device
    dtype = str(model.weights.dtype_name(name))
    where = None if device == "auto" else device
    known: dict[str, Any] = {"config": config, "class_name": transforms.class_name(model, name), "dtype": dtype}
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
        return model.transformed(EncoderAttention(name, encoders.IMPLEMENTATIONS[names[0]]))
    return model.transformed(Attention(name, tuple(b.library for b in found)))
