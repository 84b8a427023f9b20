"""Counts the work of a node's call while it runs: the operations that torch dispatches in this thread.

Results do not change: each operation runs as it would, with the same kernel. Code compiled by torch.compile is not
counted, since torch runs it uncompiled while something looks at its operations.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from threading import local
from typing import Any

from ...graph.contract.events import CallInfo
from ...graph.contract.machine_limits import Work
from .value_tensors import tensors_of

PACKAGE = __name__.rpartition(".nodes.")[0] + ".nodes."
NAMES = {"float8_e4m3fn": "float8", "float8_e5m2": "float8"}
ATTENTION = ("flash_attn", "sage", "flash_4", "_flash_attention", "_efficient_attention")
"""Parts of the names of custom operators that compute attention of [B, tokens, heads, width]."""

_running = local()


class OperationMeter:
    """Counts the calls of this library's nodes.

    Args:
        device: The device of the run. On a GPU, products of float32 may use TF32.
    """

    def __init__(self, device: str = "cpu") -> None:
        self._device = device
        self._mode: Any = None

    def takes(self, call: CallInfo, arguments: Mapping[str, Any]) -> bool:
        """Every node of this library, unless a model among its arguments is compiled."""
        own = call.type.function.__module__.startswith(PACKAGE)
        return own and not any(_compiled(value) for value in arguments.values())

    def key(self, arguments: Mapping[str, Any]) -> Hashable:
        """The device, whether products of float32 use TF32, and the tensors among the arguments."""
        tensors = tensors_of(list(arguments.values()))
        return self._device, _tf32(self._device), tuple((path, tuple(t.shape), t.dtype) for path, t, _ in tensors)

    def lasting(self, call: CallInfo, arguments: Mapping[str, Any]) -> str | None:
        from .lasting_names import name_of

        return name_of(call.type.name, arguments, (self._device, _tf32(self._device)))

    def begin(self) -> None:
        self._mode = _mode()
        self._mode.__enter__()
        _running.mode = self._mode

    def end(self) -> Work:
        mode, self._mode, _running.mode = self._mode, None, None
        mode.__exit__(None, None, None)
        work: Work = mode.work(self._device)
        return work

    def kind(self, outputs: Mapping[str, Any], events: Sequence[Mapping[str, Any]]) -> Hashable:
        """The decisions of cache gates, and the shapes of the outputs."""
        decisions = tuple(
            (e.get("branch"), e.get("clip"), e.get("stack"), e.get("component"), e["computed"])
            for e in events
            if "computed" in e
        )
        shapes = tuple((path, tuple(tensor.shape)) for path, tensor, _ in tensors_of(list(outputs.values())))
        return decisions, shapes


@contextmanager
def uncounted() -> Iterator[None]:
    """Operations inside `with` are not part of the node's work, such as a trial of attention kernels."""
    mode = getattr(_running, "mode", None)
    if mode is None:
        yield
        return
    mode.paused += 1
    try:
        yield
    finally:
        mode.paused -= 1


def _compiled(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return any(_compiled(each) for each in value)
    for transform in getattr(value, "transforms", ()):
        if transform.kind == "compile" or any("flex" in name for name in getattr(transform, "candidates", ())):
            return True
    return False


def _tf32(device: str) -> bool:
    if not device.startswith("cuda"):
        return False
    import torch

    return bool(torch.backends.cuda.matmul.allow_tf32)


def _mode() -> Any:
    """A new mode of torch that counts operations, with `work` and `paused`."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils.flop_counter import flop_registry

    class Count(TorchDispatchMode):
        def __init__(self) -> None:
            super().__init__()
            self.by_dtype: dict[Any, int] = {}
            self.bytes = 0
            self.paused = 0

        @classmethod
        def _should_skip_dynamo(cls) -> bool:
            """The first operation must not import torch._dynamo, which takes seconds: no compiled call is counted."""
            return False

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            out = func(*args, **kwargs) if kwargs else func(*args)
            formula = known.get(func, unknown)
            if formula is unknown:
                formula = known[func] = None if _moves_nothing(func) else _formula(func, flop_registry)
            if formula is None or self.paused:
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

        def work(self, device: str) -> Work:
            """The work so far."""
            tf32 = _tf32(device)
            flops: dict[str, int] = {}
            for dtype, count in self.by_dtype.items():
                name = str(dtype).removeprefix("torch.")
                name = "tf32" if tf32 and name == "float32" else NAMES.get(name, name)
                flops[name] = flops.get(name, 0) + int(count)
            return Work(flops, self.bytes)

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
