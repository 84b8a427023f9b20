"""Reads and sets the backend of a module's attention processors."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from ....graph.contract.errors import NodeError
from ....graph.contract.process_state import exclusive
from ...support.quiet import quiet
from . import kernels

FORCED = ("_native_cudnn", "_native_efficient", "_native_flash", "_native_math")
"""Backends of diffusers that set torch's choice of kernels, which is that of the process, during each call."""

_ALONE: set[Callable[..., Any]] = set()
"""The functions that `_call_alone` made."""


def choose(module: Any, backend: str) -> None:
    """Set the attention backend of a view, by its name in diffusers or in `kernels`.

    diffusers also changes the default backend of the process. This function restores the default, and no other thread
    computes meanwhile.

    Raises:
        NodeError: If the module has no processor with a backend, or the backend cannot be used.
    """
    from diffusers.models.attention_dispatch import _AttentionBackendRegistry as Registry

    if not hasattr(module, "set_attention_backend"):
        raise NodeError(f"{type(module).__name__} has no choice of attention")
    with exclusive():
        before, _ = Registry.get_active_backend()
        try:
            with quiet():
                if backend in kernels.KERNELS:
                    member = kernels.name(backend)  # `set_attention_backend` accepts only names of diffusers
                    for processor in processors(module):
                        processor._attention_backend = member
                else:
                    if backend in FORCED:
                        _call_alone(backend)
                    module.set_attention_backend(backend)
        except Exception as error:
            raise NodeError(f"attention cannot use {backend}: {error}") from error
        finally:
            Registry.set_active_backend(before)
    if backend not in chosen(module):
        raise NodeError(f"{type(module).__name__} has no attention with a choice of backend")


def _call_alone(backend: str) -> None:
    """Let no other thread compute while a backend of `FORCED` has torch's choice of kernels set.

    Other code may have set diffusers' own function again since the last call, so each call checks the function.
    Compiled code holds the choice in its graph; a lock would break the graph.
    """
    import torch
    from diffusers.models.attention_dispatch import AttentionBackendName
    from diffusers.models.attention_dispatch import _AttentionBackendRegistry as Registry

    member = AttentionBackendName(backend)
    attend: Callable[..., Any] = Registry._backends[member]
    if attend in _ALONE:
        return

    @functools.wraps(attend)
    def alone(*arguments: Any, **named: Any) -> Any:
        if torch.compiler.is_compiling():
            return attend(*arguments, **named)
        with exclusive():
            return attend(*arguments, **named)

    Registry._backends[member] = alone
    _ALONE.add(alone)


def chosen(module: Any) -> set[str]:
    """The backends set on a module's attention processors, by diffusers' names."""
    found = (processor._attention_backend for processor in processors(module))
    return {str(getattr(backend, "value", backend)) for backend in found if backend is not None}


def processors(module: Any) -> list[Any]:
    """The attention processors of a module that have a choice of backend."""
    found = (getattr(part, "processor", None) for part in module.modules())
    return [processor for processor in found if hasattr(processor, "_attention_backend")]
