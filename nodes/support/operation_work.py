"""The work of operations that torch dispatches in this thread: a mode of torch, and formulas.

Results do not change: each operation runs as it would, with the same kernel. Torch takes about 30 microseconds longer
for an operation that Python looks at, so `function_work` asks for few.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ...graph.contract.machine_limits import Work

NAMES = {"float8_e4m3fn": "float8", "float8_e5m2": "float8"}
ATTENTION = ("flash_attn", "fa3_fwd", "sage", "flash_3", "flash_4", "_flash_attention", "_efficient_attention")
"""Parts of the names of custom operators that compute attention of [B, tokens, heads, width]."""


def operation_mode() -> Any:
    """A new mode of torch that counts operations, with `take` and `operations`, the number of operations it saw."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils.flop_counter import flop_registry

    class Count(TorchDispatchMode):
        def __init__(self) -> None:
            super().__init__()
            self.by_dtype: dict[Any, int] = {}
            self.bytes = self.operations = 0

        @classmethod
        def _should_skip_dynamo(cls) -> bool:
            """The first operation must not import torch._dynamo, which takes seconds: no compiled call is counted."""
            return False

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            out = func(*args, **kwargs) if kwargs else func(*args)
            self.operations += 1
            formula = known.get(func, unknown)
            if formula is unknown:
                formula = known[func] = None if _moves_nothing(func) else _formula(func, flop_registry)
            if formula is None:
                return out
            made = out.nbytes if type(out) is tensor and not out.is_meta else _bytes((out,), tensor)
            if made is not None:
                self.bytes += made + (_bytes(args, tensor) or 0)
                if kwargs:
                    self.bytes += _bytes(tuple(kwargs.values()), tensor) or 0
                if formula is not _nothing:
                    flops = formula(*args, out_val=out, **(kwargs or {}))
                    by = self.by_dtype
                    by[args[1].dtype] = by.get(args[1].dtype, 0) + flops
            return out

        def take(self, tf32: bool) -> Work:
            """The work since the last call of `take`.

            Args:
                tf32: Products of float32 use TF32.
            """
            flops: dict[str, int] = {}
            for dtype, count in self.by_dtype.items():
                name = str(dtype).removeprefix("torch.")
                name = "tf32" if tf32 and name == "float32" else NAMES.get(name, name)
                flops[name] = flops.get(name, 0) + int(count)
            moved, self.bytes = self.bytes, 0
            self.by_dtype.clear()
            return Work(flops, moved)

    tensor, known, unknown = torch.Tensor, _FORMULAS, object()
    return Count()


_FORMULAS: dict[Any, Any] = {}
"""The formula for the work of each operation: None for one that moves nothing."""


def _bytes(values: Any, tensor: type) -> int | None:
    """Bytes of the tensors in arguments or results; None if one is on the meta device, where nothing is computed."""
    total = 0
    for each in values:
        if isinstance(each, tensor):
            if each.is_meta:  # type: ignore[attr-defined]
                return None
            total += each.nbytes  # type: ignore[attr-defined]
        elif isinstance(each, list | tuple):
            inner = _bytes(each, tensor)
            if inner is None:
                return None
            total += inner
    return total


def _moves_nothing(func: Any) -> bool:
    """Whether an operation's result shares memory with an input, or is only room for numbers."""
    returns, name = func._schema.returns, func._schema.name
    shares = any(r.alias_info is not None and not r.alias_info.is_write for r in returns)
    return shares or not returns or any(word in name for word in ("empty", "detach", "unsafe_view"))


def _nothing(*_: Any, **__: Any) -> int:
    """Operations of an operation that multiplies no matrices."""
    return 0


def _formula(func: Any, registry: Mapping[Any, Callable[..., int]]) -> Callable[..., int]:
    """torch's own formula; for other kernels of attention, two products of queries and keys."""
    name = func._schema.name
    if name in PRODUCTS:
        return PRODUCTS[name]
    formula = registry.get(func.overloadpacket)
    if formula is not None:
        return formula
    if "scaled_dot_product" in name and "attention" in name:
        return _heads_first
    return _tokens_first if any(part in name for part in ATTENTION) else _nothing


def _product(a: Any, b: Any, *_: Any, **__: Any) -> int:
    """Matrices of [M, K] and [K, N]. torch's own formula gives the same, and takes several microseconds more."""
    return int(2 * a.shape[0] * a.shape[1] * b.shape[1])


def _sum_and_product(_: Any, a: Any, b: Any, *__: Any, **___: Any) -> int:
    return int(2 * a.shape[0] * a.shape[1] * b.shape[1])


PRODUCTS: Mapping[str, Callable[..., int]] = {"aten::mm": _product, "aten::addmm": _sum_and_product}


def _heads_first(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    """Attention of [B, heads, tokens, width]."""
    batch, heads, queries, width = query.shape
    return int(2 * batch * heads * queries * key.shape[2] * (width + value.shape[3]))


def _tokens_first(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    """Attention of [B, tokens, heads, width]."""
    batch, queries, heads, width = query.shape
    return int(2 * batch * heads * queries * key.shape[1] * (width + value.shape[3]))
