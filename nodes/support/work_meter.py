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
            if self.paused or _is_view(func):
                return out
            tensors = [t for t in _flat((args, tuple(kwargs.values()))) if isinstance(t, torch.Tensor)]
            made = [t for t in _flat((out,)) if isinstance(t, torch.Tensor)]
            if not any(t.device.type == "meta" for t in made):
                self.bytes += sum(t.numel() * t.element_size() for t in (*tensors, *made))
                flops = _flops(func, flop_registry, args, kwargs, out)
                if flops:
                    name = _dtype(tensors[0] if len(tensors) < 3 else tensors[1])
                    self.flops[name] = self.flops.get(name, 0) + flops
            return out

    return Count()


_VIEWS: dict[Any, bool] = {}


def _is_view(func: Any) -> bool:
    """Whether an operation moves no data: its result shares memory with an input, or it only makes room."""
    found = _VIEWS.get(func)
    if found is None:
        returns = func._schema.returns
        shares = [r.alias_info is not None and not r.alias_info.is_write for r in returns]
        found = _VIEWS[func] = (
            any(shares) or not returns or "empty" in func._schema.name or "detach" in func._schema.name
        )
    return found


def _flat(values: Any) -> Iterator[Any]:
    for value in values:
        if isinstance(value, list | tuple):
            yield from _flat(value)
        else:
            yield value


def _dtype(tensor: torch.Tensor) -> str:
    """The dtype whose rate limits an operation on this tensor."""
    import torch

    name = str(tensor.dtype).removeprefix("torch.")
    if name == "float32" and tensor.is_cuda and torch.backends.cuda.matmul.allow_tf32:
        return "tf32"
    return NAMES.get(name, name)


def _flops(func: Any, registry: Mapping[Any, Callable[..., int]], args: Any, kwargs: Any, out: Any) -> int:
    """Operations, by torch's own formulas; for other kernels of attention, two products of queries and keys."""
    formula = registry.get(func.overloadpacket)
    if formula is not None:
        return int(formula(*args, **kwargs, out_val=out))
    name = func._schema.name
    if "scaled_dot_product" in name and "attention" in name and len(args) >= 3:  # [B, heads, tokens, width]
        query, key, value = args[:3]
        pairs = query.shape[0] * query.shape[1] * query.shape[2] * key.shape[2]
        return int(2 * pairs * (query.shape[3] + value.shape[3]))
    if any(part in name for part in ATTENTION) and len(args) >= 3 and getattr(args[2], "ndim", 0) == 4:
        query, key, value = args[:3]
        pairs = query.shape[0] * query.shape[1] * query.shape[2] * key.shape[1]
        return int(2 * pairs * (query.shape[3] + value.shape[3]))
    return 0
