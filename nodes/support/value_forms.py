"""The form of a value: shapes and dtypes replace tensors. Calls whose arguments have equal forms cost the same."""

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
    """The form of a tensor, of a plain value, or of a list or tuple of them, which becomes a tuple; hashable."""
    if isinstance(value, list | tuple):
        return tuple(map(form, value))
    if hasattr(value, "untyped_storage"):
        return Shape(tuple(value.shape), value.dtype)
    return value


def from_form(form: Any) -> Any:
    """Make a value with this form: new tensors on the meta device. Tuples become lists."""
    if isinstance(form, tuple):
        return [from_form(entry) for entry in form]
    if isinstance(form, Shape):
        import torch

        return torch.empty(form.sizes, dtype=form.dtype, device="meta")
    return form
