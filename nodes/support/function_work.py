"""The work of a call by the functions of torch that it calls: each kind of function call is counted once.

Equal functions with arguments of equal shapes do equal work, so the operations of one are counted, which takes long
(`operation_work`), and of the others only the arguments are looked at, which takes microseconds. The count keeps an
account of its cost, and gives up at the limit.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from time import thread_time
from types import EllipsisType, NoneType
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from ...graph.contract.machine_limits import CallCount, Work
from .operation_work import operation_mode

GETTER = type(torch.Tensor.shape.__get__)  # type: ignore[attr-defined]
"""The type of the functions that read attributes of tensors, such as `shape`."""
FREE = frozenset(
    ("__len__", "dim", "element_size", "get_device", "is_contiguous", "is_floating_point", "numel", "size", "stride")
)
"""Names of functions that move nothing."""
BY_VALUE = frozenset(
    ("argwhere", "bincount", "masked_scatter", "masked_scatter_", "masked_select", "nonzero", "repeat_interleave")
) | {"unique", "unique_consecutive", "where"}
"""Names of functions whose work may depend on the numbers in a tensor."""
BY_INDEX = frozenset(("__getitem__", "__setitem__", "index_put", "index_put_"))
"""Names of functions whose work depends on numbers if an index is a tensor."""
PLAIN = frozenset((int, float, bool, complex, str, NoneType, EllipsisType))
OF_TORCH = frozenset((torch.Size, torch.dtype, torch.device, torch.layout, torch.memory_format))
TENSORS = frozenset((torch.Tensor, torch.nn.Parameter))
LEAST_NEW = 20
"""The least number of functions that each count learns, so that the next gets further. It takes half a millisecond."""
WITHOUT_NAME = 3
"""Factor on the limit at a function without a key: it cannot be remembered, so each count would end at it again."""
TRIALS = 10
COLD = 3
"""Counting an operation between those of a model takes about so many times as long as in a row of small ones, since
the processor's caches hold other things then (measured on a processor with the quickstart: 2 to 10 times).
"""


class NoForm(TypeError):
    """An argument whose form does not decide the work."""


class FunctionWork(TorchFunctionMode):
    """Counts the functions that this thread calls inside `with`.

    Args:
        seconds: The most that counting may cost; `float("inf")` for no limit.
        parts: The work of calls of functions by name, from `CallCount.parts`.
        tf32: Products of float32 use TF32.

    Attributes:
        paused: Above 0, nothing is counted.
    """

    def __init__(self, seconds: float, parts: Mapping[str, Work], tf32: bool) -> None:
        super().__init__()
        self.paused = 0
        self._allowed, self._parts, self._tf32 = seconds, dict(parts), tf32
        self._least = len(parts) + LEAST_NEW
        self._known: dict[Any, Work] = {}
        self._works: list[Work] = []
        self._operations = operation_mode()
        self._given_up, self._after = False, 0
        self._look, self._count = costs() if seconds < float("inf") else (0.0, 0.0)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if type(func) is GETTER or self.paused or self._given_up:
            self._after += self._given_up
            return func(*args, **kwargs) if kwargs else func(*args)
        name = getattr(func, "__name__", "")
        if name in FREE:
            return func(*args, **kwargs) if kwargs else func(*args)
        try:
            key: Any = (func, _forms(args), _forms(kwargs.items()) if kwargs else None)
            work = self._known.get(key)
        except TypeError:  # no form, or one without a hash
            key = work = None
        if name in BY_VALUE or (name in BY_INDEX and _has_tensor(args[1:2])):
            key = work = None
        if work is None:
            limit = self._allowed if key is not None else WITHOUT_NAME * self._allowed
            if self.seconds >= limit and len(self._parts) >= self._least:
                self._given_up = True
                return func(*args, **kwargs) if kwargs else func(*args)
            text = _text(key) if key is not None else ""
            work = self._parts.get(text)
            if work is None:
                with self._operations:
                    out = func(*args, **kwargs) if kwargs else func(*args)
                work = self._operations.take(self._tf32)
                self._works.append(work)
                if key is not None:
                    self._known[key] = self._parts[text] = work
                return out
            self._known[key] = work
        self._works.append(work)
        return func(*args, **kwargs) if kwargs else func(*args)

    @property
    def seconds(self) -> float:
        """What counting cost so far."""
        looked = len(self._works) + self._after / 2
        return float(looked * self._look + self._operations.operations * self._count)

    def found(self) -> CallCount:
        """The count."""
        if self._given_up:
            return CallCount(None, self.seconds, self._parts)
        number: dict[int, int] = {}
        kinds = {id(work): work for work in self._works}
        for work in self._works:
            number[id(work)] = number.get(id(work), 0) + 1
        total = Work()
        for each, work in kinds.items():
            total = total + work.times(number[each])
        return CallCount(total, self.seconds)


@cache
def costs() -> tuple[float, float]:
    """The seconds that looking at a function call takes, and those that counting its operation takes."""
    one = torch.ones(1)

    def took() -> float:
        torch.add(one, one)
        began = thread_time()
        for _ in range(TRIALS):
            torch.add(one, one)
        return (thread_time() - began) / TRIALS

    plain = min(took(), took())
    with FunctionWork(float("inf"), {}, False):
        looked = min(took(), took())
    with operation_mode():
        counted = min(took(), took())
    return max(looked - plain, 1e-7), COLD * max(counted - plain, 1e-7)


def _forms(values: Any) -> tuple[Any, ...]:
    """Everything about arguments that decides the work: the layout of tensors, and the values of other arguments.

    Raises:
        NoForm: If there is an argument of another kind.
    """
    found: list[Any] = []
    for value in values:
        kind = type(value)
        if kind in TENSORS:
            found.append((value.shape, value.stride(), value.dtype, value.device))
        elif kind in PLAIN:
            found.append((kind, value))
        elif kind is tuple or kind is list:
            found.append(_forms(value))
        elif kind is slice:
            found.append(_forms((value.start, value.stop, value.step)))
        elif kind in OF_TORCH:
            found.append(value)
        else:
            raise NoForm
    return tuple(found)


def _has_tensor(values: Any) -> bool:
    return any(
        isinstance(each, torch.Tensor) or (isinstance(each, tuple | list) and _has_tensor(each)) for each in values
    )


def _text(key: Any) -> str:
    """A key as text that is equal in other processes."""
    func, args, kwargs = key
    name = getattr(func, "__qualname__", None) or getattr(func, "__name__", None) or str(func)
    return f"{getattr(func, '__module__', None)}.{name} {args!r} {kwargs!r}"
