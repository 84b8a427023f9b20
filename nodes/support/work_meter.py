"""Counts the work of a node's call while it runs: the functions of torch that this thread calls.

Results do not change. Code compiled by torch.compile is not counted, since torch runs it uncompiled while something
looks at its operations.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from threading import local
from typing import Any

from ...graph.contract.events import CallInfo
from ...graph.contract.machine_limits import CallCount, Work
from .value_tensors import tensors_of

PACKAGE = __name__.rpartition(".nodes.")[0] + ".nodes."

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

    def begin(self, seconds: float, parts: Mapping[str, Work]) -> None:
        from .function_work import FunctionWork

        self._mode = FunctionWork(seconds, parts, _tf32(self._device))
        self._mode.__enter__()
        _running.mode = self._mode

    def end(self) -> CallCount:
        mode, self._mode, _running.mode = self._mode, None, None
        mode.__exit__(None, None, None)
        found: CallCount = mode.found()
        return found

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
