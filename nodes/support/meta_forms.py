"""The form of a value: the value without the storages of its tensors, to find calls that are alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Shape:
    """A tensor on the meta device without its storage."""

    sizes: tuple[int, ...]
    dtype: torch.dtype


def form(value: Any) -> Any:
    """The form of a tensor, of a plain value, or of lists and tuples of these, which become tuples; hashable."""
    if isinstance(value, list | tuple):
        return tuple(map(form, value))
    if hasattr(value, "untyped_storage"):
        return Shape(tuple(value.shape), value.dtype)
    return value


def formed(form: Any) -> Any:
    """A value of a form, its tensors on the meta device with storages of their own; tuples are lists."""
    if isinstance(form, tuple):
        return [formed(entry) for entry in form]
    if isinstance(form, Shape):
        import torch

        return torch.empty(form.sizes, dtype=form.dtype, device="meta")
    return form
