"""The meta device as the place of new tensors, for one thread alone.

`with torch.device("meta")` and `torch.set_default_dtype` change variables of the whole process. A function mode of
torch belongs to a thread.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


@contextmanager
def on_meta(dtype: torch.dtype) -> Iterator[None]:
    """Inside, this thread makes tensors on the meta device, with `dtype` as the default dtype, and initialises none.

    Tensors made of Python numbers and of whole numbers get the default dtype where torch would give them its own.
    """
    import torch
    from torch.overrides import TorchFunctionMode
    from torch.utils._device import _device_constructors

    constructors, default = _device_constructors(), torch.get_default_dtype()
    explicit = {torch.Tensor.float, torch.Tensor.type, torch.Tensor.type_as}

    class OnMeta(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if getattr(func, "__module__", None) == "torch.nn.init":
                return args[0] if args else (kwargs or {}).get("tensor")
            kwargs = dict(kwargs or {})
            if func in constructors and kwargs.get("device") is None:
                kwargs["device"] = "meta"
            made = func(*args, **kwargs)
            if isinstance(made, torch.Tensor) and made.dtype == default != dtype and func not in explicit:
                given = [*args, *kwargs.values()]
                if not any(_has_dtype(value, torch) for value in given) and made is not (args[0] if args else None):
                    return made.to(dtype)
            return made

    with OnMeta():
        yield


def _has_dtype(value: Any, torch: Any) -> bool:
    """Whether an argument gives the result its dtype: a dtype, or an array or a tensor of floating-point numbers."""
    if isinstance(value, torch.Tensor):
        return bool(value.is_floating_point() or value.is_complex())
    if isinstance(value, torch.dtype) or hasattr(value, "__array_interface__"):
        return True
    return isinstance(value, Iterable) and not isinstance(value, str) and any(_has_dtype(v, torch) for v in value)
