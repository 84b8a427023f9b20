"""Results of operations on the meta device, remembered by the forms of their arguments.

torch computes the form of most results in Python. That takes many times as long as making an empty tensor, and a plan
calls the same operation with equal forms in every block and step.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import torch


class Strided(NamedTuple):
    """The form of a dense tensor on the meta device."""

    sizes: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: torch.dtype


class MetaResults:
    """Calls operations, and makes the results of calls with forms that were seen before.

    Operations that return a view of an argument or change one are always called. So are operations on other devices
    and on subclasses of tensors.
    """

    def __init__(self) -> None:
        self._fresh: dict[Any, bool] = {}
        self._seen: dict[Any, tuple[Strided, ...] | Strided | None] = {}

    def call(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Return `func(*args, **kwargs)`, or new tensors on the meta device that have the forms of that result."""
        fresh = self._fresh.get(func)
        if fresh is None:
            fresh = self._fresh[func] = _returns_new_tensors(func)
        if not fresh:
            return func(*args, **kwargs)
        try:
            key = (func, _form(args), _form(tuple(kwargs.items())))
            known = key in self._seen
        except TypeError:  # an argument without a form
            return func(*args, **kwargs)
        if not known:
            made = func(*args, **kwargs)
            self._seen[key] = _result_form(made)
            return made
        form = self._seen[key]
        if form is None:
            return func(*args, **kwargs)
        return _made(form) if isinstance(form, Strided) else tuple(map(_made, form))


def _returns_new_tensors(func: Any) -> bool:
    """Whether no argument and no result of an operation is marked as a view or as changed."""
    schema = func._schema
    return all(each.alias_info is None for each in (*schema.arguments, *schema.returns))


def _form(value: Any) -> Any:
    """The form of an argument; hashable.

    Raises:
        TypeError: If it holds a tensor that is not a plain one on the meta device.
    """
    import torch

    if isinstance(value, torch.Tensor):
        if type(value) not in (torch.Tensor, torch.nn.Parameter) or not value.is_meta:
            raise TypeError
        return Strided(tuple(value.shape), value.stride(), value.dtype)
    if isinstance(value, list | tuple):
        return tuple(map(_form, value))
    return type(value), value  # 1, 1.0 and True are equal, and their results may have other dtypes


def _result_form(made: Any) -> tuple[Strided, ...] | Strided | None:
    """The form of a result; None if it is more than new tensors that begin and end with their storage."""
    import torch

    if isinstance(made, tuple) and made and all(isinstance(each, torch.Tensor) for each in made):
        forms = [_result_form(each) for each in made]
        return tuple(each for each in forms if isinstance(each, Strided)) if None not in forms else None
    if type(made) is not torch.Tensor or not made.is_meta:
        return None
    form = _form(made)
    same = made.storage_offset() == 0 and made.untyped_storage().nbytes() == _made(form).untyped_storage().nbytes()
    return form if same else None


def _made(form: Strided) -> torch.Tensor:
    import torch

    return torch.empty_strided(form.sizes, form.strides, dtype=form.dtype, device="meta")
