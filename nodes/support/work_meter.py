"""Counts the work of a node's call while it runs: the operations that torch dispatches in this thread.

Results do not change: each operation runs as it would, with the same kernel. Code compiled by torch.compile is not
counted, since torch runs it uncompiled while something looks at its operations.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from threading import local
from typing import TYPE_CHECKING, Any

from ...graph.contract.events import CallInfo
from ...graph.contract.machine_limits import Work
from .value_tensors import tensors_of

if TYPE_CHECKING:
    import torch

PACKAGE = __name__.rpartition(".nodes.")[0] + ".nodes."
NAMES = {"float8_e4m3fn": "float8", "float8_e5m2": "float8"}
ATTENTION = ("flash_attn", "sage", "flash_4", "_flash_attention", "_efficient_attention")
"""Parts of the names of custom operators that compute attention of [B, tokens, heads, width]."""

_running = local()


class OperationMeter:
    """Counts the calls of this library's nodes."""

    def __init__(self) -> None:
        self._mode: Any = None

    def takes(self, call: CallInfo, arguments: Mapping[str, Any]) -> bool:
        """Every node of this library, unless a model among its arguments is compiled."""
        own = call.type.function.__module__.startswith(PACKAGE)
        return own and not any(_compiled(value) for value in arguments.values())

    def begin(self) -> None:
        self._mode = _mode()
        self._mode.__enter__()
        _running.mode = self._mode

    def end(self) -> Work:
        mode, self._mode, _running.mode = self._mode, None, None
        mode.__exit__(None, None, None)
        return Work(dict(mode.flops), mode.bytes)

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


def _mode() -> Any:
    """A new mode of torch that counts operations, with `flops` by dtype, `bytes` and `paused`."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils.flop_counter import flop_registry

    class Count(TorchDispatchMode):
        def __init__(self) -> None:
            super().__init__()
            self.flops: dict[str, int] = {}
            self.bytes = 0
            self.paused = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            kwargs = kwargs or {}
            out = func(*args, **kwargs)
            formula = known.get(func, unknown)
            if formula is unknown:
                formula = known[func] = None if _moves_nothing(func) else _formula(func, flop_registry)
            if formula is None or self.paused:
                return out
            made = _bytes(out, tensor)
            if made is not None:
                self.bytes += made + (_bytes(args, tensor) or 0) + (_bytes(tuple(kwargs.values()), tensor) or 0)
                if formula is not _nothing:
                    flops = int(formula(*args, **kwargs, out_val=out))
                    name = _dtype(args[1])
                    self.flops[name] = self.flops.get(name, 0) + flops
            return out

    tensor, known, unknown = torch.Tensor, _FORMULAS, object()
    return Count()


_FORMULAS: dict[Any, Any] = {}
"""The formula for the work of each operation: None for one that moves nothing."""


def _bytes(value: Any, tensor: type) -> int | None:
    """Bytes of the tensors of an argument or a result; None if one is on the meta device, where nothing is computed."""
    if isinstance(value, tensor):
        return None if value.is_meta else value.nbytes  # type: ignore[attr-defined]
    if not isinstance(value, list | tuple):
        return 0
    total = 0
    for each in value:
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
    formula = registry.get(func.overloadpacket)
    if formula is not None:
        return formula
    name = func._schema.name
    if "scaled_dot_product" in name and "attention" in name:
        return _heads_first
    return _tokens_first if any(part in name for part in ATTENTION) else _nothing


def _heads_first(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    """Attention of [B, heads, tokens, width]."""
    batch, heads, queries, width = query.shape
    return int(2 * batch * heads * queries * key.shape[2] * (width + value.shape[3]))


def _tokens_first(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    """Attention of [B, tokens, heads, width]."""
    batch, queries, heads, width = query.shape
    return int(2 * batch * heads * queries * key.shape[1] * (width + value.shape[3]))


def _dtype(tensor: torch.Tensor) -> str:
    """The dtype whose rate limits an operation on this tensor."""
    import torch

    name = str(tensor.dtype).removeprefix("torch.")
    if name == "float32" and tensor.is_cuda and torch.backends.cuda.matmul.allow_tf32:
        return "tf32"
    return NAMES.get(name, name)
