"""The context of a run, without gradients, and the meter that counts the cost of a plan.

A plan runs the nodes on the meta device, where tensors have shapes and no memory. The meter counts the cost of the
real run: floating-point operations by the formulas of torch's flop counter, memory as the high-water mark of live
storages, and the bytes that go to other processes.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from ...graph.contract.node import Run
from .meta_results import MetaResults

if TYPE_CHECKING:
    import torch

_METER: ContextVar[Meter | None] = ContextVar("meter", default=None)

SENT: dict[Any, Callable[..., int]] = {}
"""Formulas for the bytes that an operator sends to other processes; each takes the operator's arguments."""


class Meter:
    """Counts operations and bytes of calls on the meta device.

    A storage counts from the operation that made it until its last reference is gone; views share a storage.
    Storages of parameters count from `hold` on. Temporary memory inside an operation is not counted.
    """

    def __init__(self) -> None:
        self.flops = 0
        self.eight_bit_flops = 0
        self.eight_bit_attention = False
        self.sent = 0
        self.live = 0
        self.peak = 0
        self._dtypes: dict[str, int] = {}
        self._storages: dict[int, int] = {}
        self._finalizers: dict[int, weakref.finalize[..., Any]] = {}
        self.paused = 0

    def note(self, flops: int, dtype: torch.dtype, eight_bit: bool = False) -> None:
        """Count floating-point operations on tensors of a dtype. `eight_bit`: a run may compute them in 8 bits."""
        self.flops += flops
        if eight_bit or dtype.itemsize == 1:
            self.eight_bit_flops += flops
        name = str(dtype).removeprefix("torch.")
        self._dtypes[name] = self._dtypes.get(name, 0) + flops

    def take(self) -> dict[str, Any]:
        """The numbers counted since the last call.

        Returns:
            `flops`: floating-point operations (a multiply-add counts as two); `peak_bytes`: the largest number of live
            bytes; `live_bytes`: the current number of live bytes; `sent_bytes`: bytes that go to other processes;
            `dtype`: the dtype of most operations, or None; `eight_bit_flops`: operations that a run computes, or may
            compute, with numbers of 8 bits, if there are any.
        """
        most = max(self._dtypes, key=lambda name: self._dtypes[name], default=None)
        taken = {"flops": self.flops, "peak_bytes": self.peak, "live_bytes": self.live, "dtype": most}
        taken["sent_bytes"] = self.sent
        if self.eight_bit_flops:
            taken["eight_bit_flops"] = self.eight_bit_flops
        self.flops, self.eight_bit_flops, self.sent, self.peak = 0, 0, 0, self.live
        self._dtypes.clear()
        return taken

    def hold(self, tensor: torch.Tensor) -> None:
        """Count the storage of a tensor on the meta device until it is freed."""
        if tensor.device.type != "meta":
            return
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._storages:
            return
        size = storage.nbytes()
        self._storages[key] = size
        self._finalizers[key] = weakref.finalize(storage, self._freed, key)
        self.live += size
        self.peak = max(self.peak, self.live)

    def exempt(self, tensor: torch.Tensor) -> None:
        """Do not count the storage of a tensor on the meta device."""
        storage = tensor.untyped_storage()
        key = storage._cdata
        if tensor.device.type == "meta" and key not in self._storages:
            self._storages[key] = 0
            self._finalizers[key] = weakref.finalize(storage, self._freed, key)

    def close(self) -> None:
        """Stop counting, and stop watching live storages."""
        for finalizer in self._finalizers.values():
            finalizer.detach()
        self._finalizers.clear()
        self._storages.clear()

    def _freed(self, key: int) -> None:
        self.live -= self._storages.pop(key, 0)
        self._finalizers.pop(key, None)


@contextmanager
def meter(run: Run) -> Iterator[Meter]:
    """Count the torch operations that this thread runs inside `with`; `Meter.take` returns the counts."""
    from torch.utils import _pytree
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils.flop_counter import flop_registry

    counter, results = Meter(), MetaResults()

    class Count(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            kwargs = kwargs or {}
            out = results.call(func, args, kwargs)
            if not counter.paused:
                formula = flop_registry.get(func.overloadpacket)
                if formula is not None:
                    counter.note(formula(*args, **kwargs, out_val=out), args[1].dtype)
                elif func.namespace == "sgd" and func.overloadpacket in SENT:
                    counter.sent += SENT[func.overloadpacket](*args, **kwargs)
                if isinstance(out, torch.Tensor):
                    counter.hold(out)
                else:
                    for leaf in _pytree.tree_leaves(out):
                        if isinstance(leaf, torch.Tensor):
                            counter.hold(leaf)
            return out

    import torch

    token = _METER.set(counter)
    try:
        with Count():
            yield counter
    finally:
        _METER.reset(token)
        counter.close()


def sends(size: int) -> bool:
    """Whether this thread traces a plan. Then nothing is sent, and the bytes to other processes are counted."""
    counter = _METER.get()
    if counter is None:
        return False
    counter.sent += 0 if counter.paused else size
    return True


def on_host(make: Callable[[], torch.Tensor]) -> torch.Tensor:
    """Make a tensor that a plan does not count: on the meta device, it stands for one in the host's memory."""
    counter = _METER.get()
    if counter is None:
        return make()
    counter.paused += 1
    try:
        made = make()
    finally:
        counter.paused -= 1
    counter.exempt(made)
    return made


class Attempt:
    """Work on the meta device that can be removed from the count; made by `attempt`.

    Attributes:
        live: Live bytes before the work.
        above: The largest number of live bytes during the work, minus `live`; known after the work.
    """

    def __init__(self, counter: Meter) -> None:
        self._counter = counter
        self._flops, self._sent, self.live, self._peak = counter.flops, counter.sent, counter.live, counter.peak
        self._eight_bit_flops = counter.eight_bit_flops
        self.above = 0

    def undo(self) -> None:
        """Remove the work from the count.

        Call this method right after the work. Delete the results first, because they count as live bytes.
        """
        self._counter.flops, self._counter.sent, self._counter.peak = self._flops, self._sent, self._peak
        self._counter.eight_bit_flops = self._eight_bit_flops


@contextmanager
def attempt() -> Iterator[Attempt]:
    """Do work on this thread inside `with`. The work can be removed from the count if it takes too much memory."""
    counter = _METER.get() or Meter()  # without a meter, nothing is counted
    made = Attempt(counter)
    counter.peak = counter.live
    try:
        yield made
    finally:
        made.above = counter.peak - made.live
        counter.peak = max(counter.peak, made._peak)


@contextmanager
def eight_bit_attention() -> Iterator[None]:
    """Count attention inside `with` as work that a run may compute in 8 bits, in the plan that this thread traces."""
    counter = _METER.get()
    if counter is None:
        yield
        return
    before, counter.eight_bit_attention = counter.eight_bit_attention, True
    try:
        yield
    finally:
        counter.eight_bit_attention = before


def current() -> Meter | None:
    """The meter of the plan that this thread traces; None without a plan."""
    return _METER.get()


def live_bytes() -> int:
    """Live bytes of the plan that this thread traces; 0 without a plan."""
    counter = _METER.get()
    return 0 if counter is None else counter.live


@contextmanager
def building() -> Iterator[Callable[..., None]]:
    """Build a module without counting the cost of building it.

    Yields a function `count(module, resident=None)`, which counts the tensors of the module until they are freed.
    With `resident`, it counts this number of bytes instead while the module lives.
    """
    counter = _METER.get()

    def count(module: torch.nn.Module, resident: int | None = None) -> None:
        if counter is None:
            return
        for tensor in (*module.parameters(), *module.buffers()):
            if resident is None:
                counter.hold(tensor)
            else:
                counter.exempt(tensor)
        if resident is not None:
            import torch

            place = torch.empty(resident, dtype=torch.uint8, device="meta")
            counter.hold(place)
            weakref.finalize(module, _keep, place).atexit = False

    if counter is not None:
        counter.paused += 1
    try:
        yield count
    finally:
        if counter is not None:
            counter.paused -= 1


def _keep(place: torch.Tensor) -> None:
    """Do nothing. A module's finalizer with this function keeps `place` alive until the module is freed."""


@contextmanager
def runtime(run: Run) -> Iterator[None]:
    """Set up the context of a run: no gradients; while planning, attention counts as one operation.

    It uses `no_grad`, because compiled modules and LoRA loading cannot use tensors of `inference_mode`.
    """
    import torch

    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        if run.planning:
            stack.enter_context(_attention_on_meta())
        yield


@contextmanager
def _attention_on_meta() -> Iterator[None]:
    """Count attention as one operation. torch's meta version makes a matrix of scores that GPU kernels never store."""
    import torch
    from torch.overrides import TorchFunctionMode

    attention = torch.nn.functional.scaled_dot_product_attention

    class Intercept(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func is attention:
                tensors = dict(zip(("query", "key", "value"), args, strict=False)) | (kwargs or {})
                if tensors["query"].device.type == "meta":
                    return attention_on_meta(tensors["query"], tensors["key"], tensors["value"])
            return func(*args, **(kwargs or {}))

    with Intercept():
        yield


def attention_on_meta(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Run attention on the meta device. Returns [..., heads, query tokens, value width] and counts the operations.

    Attention is two matrix products with 2·B·H·Lq·Lk·(D + Dv) operations. A mask does not reduce this number.
    """
    counter = _METER.get()
    *batch, queries, width = query.shape
    if counter is not None and not counter.paused:
        pairs = queries * key.shape[-2]
        for n in batch:
            pairs *= n
        counter.note(2 * pairs * (width + value.shape[-1]), value.dtype, counter.eight_bit_attention)
    return query.new_empty((*batch, queries, value.shape[-1]))
