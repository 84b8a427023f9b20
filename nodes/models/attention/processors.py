"""Which backend the attention processors of a module have, and giving them another."""

from __future__ import annotations

from typing import Any

from ....graph.contract.errors import NodeError
from ...support.quiet import quiet
from . import kernels


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
