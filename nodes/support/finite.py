"""A check of every call: the numbers that it returned are finite.

Each value names the tensors to check (`Port.finite_tensors`). One reduction reads a tensor. On a CPU its result is read
at once. On a GPU the results stay on the device, in the order of the calls. They are copied to the host after each turn
of a loop, without waiting, and read as soon as the copy is there: no later than the next time that something else waits
for the device. Before a node that decodes or writes files, and after the last node, the check waits for them.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...graph.contract.errors import WrongValue
from ...graph.contract.events import CallInfo, LoopInfo, Observer
from ...graph.contract.node import Run
from ...graph.contract.ports import Port
from ..values import Step
from .finite_help import help_for

if TYPE_CHECKING:
    import torch

OFF = "no_check_finite"
"""Key of `Run.options`: True switches the check off."""
SLOTS = 64

_CURRENT: ContextVar[FiniteCheck | None] = ContextVar("finite_check", default=None)


@contextmanager
def checked_calls(module: torch.nn.Module | None, name: str) -> Iterator[None]:
    """Check the tensors that a module returns inside `with`, for a node that clamps them: a clamp hides infinity.

    Args:
        module: The module; None checks nothing.
        name: The tensors in words, such as `decoded pixels`.
    """
    check = _CURRENT.get()
    call = check.call if check is not None else None
    if check is None or call is None or module is None:
        yield
        return

    def look(_: Any, __: Any, made: Any) -> None:
        if hasattr(made, "is_floating_point"):
            check.look(call, "", name, made)

    handle = module.register_forward_hook(look)
    try:
        yield
    finally:
        handle.remove()


@dataclass(frozen=True)
class Place:
    """The place of a tensor in a run.

    Attributes:
        call: The call that made it.
        port: Its output port; empty inside of the node.
        name: Its name in the value.
        kind: The type of the value.
        dtype: Its dtype.
        shape: Its shape.
        turns: The turn of each loop around the call, outermost first.
    """

    call: CallInfo
    port: str
    name: str
    kind: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    turns: tuple[LoopTurn, ...]


@dataclass(frozen=True)
class LoopTurn:
    """The turn of a loop.

    Attributes:
        loop: The loop's path.
        index: The number of the turn, from 0 as in the record.
        count: The number of turns.
        is_step: Whether it is a step of a schedule.
    """

    loop: str
    index: int
    count: int
    is_step: bool = False

    def __str__(self) -> str:
        number = self.index + 1
        ending = "th" if 10 <= number % 100 <= 20 else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
        return f"{'step' if self.is_step else 'turn'} {self.index} of {self.loop} ({number}{ending} of {self.count})"


def extreme(tensor: torch.Tensor) -> float:
    """A finite number if all numbers of a tensor on the CPU are finite; else infinity or NaN, as the worst of them.

    A finite sum shows that all numbers are finite, and it takes the least time. A sum that is not finite may have
    overflown; then the smallest and the largest number decide.
    """
    if math.isfinite(float(tensor.sum())):
        return 0.0
    low, high = (float(value) for value in tensor.aminmax())
    return max(abs(low), abs(high)) if low == low else math.nan


class Batch:
    """The largest absolute values of up to 64 tensors, on a GPU and on the way to the host."""

    def __init__(self, device: torch.device) -> None:
        import torch

        self.values = torch.empty(SLOTS, dtype=torch.float32, device=device)
        self.host = torch.empty(SLOTS, dtype=torch.float32, pin_memory=device.type == "cuda")
        self.event: Any = torch.cuda.Event() if device.type == "cuda" else None
        self.places: list[Place] = []

    def add(self, place: Place, tensor: torch.Tensor) -> None:
        """Start the reduction of a tensor."""
        import torch

        slot = self.values[len(self.places)]
        if tensor.dtype == torch.float64:  # a finite number may be infinite in float32
            slot.copy_(tensor.abs().amax() / 1e300)
        elif tensor.device != slot.device:
            slot.copy_(torch.linalg.vector_norm(tensor, math.inf, dtype=torch.float32))
        else:
            torch.linalg.vector_norm(tensor, math.inf, dtype=torch.float32, out=slot)
        self.places.append(place)

    def send(self) -> None:
        """Start the copy to the host."""
        self.host.copy_(self.values, non_blocking=True)
        if self.event is not None:
            self.event.record()

    def arrived(self) -> bool:
        """Whether the copy is there; this does not wait."""
        return self.event is None or bool(self.event.query())

    def wait(self) -> None:
        """Wait for the copy."""
        if self.event is not None:
            self.event.synchronize()

    def first(self) -> tuple[Place, float] | None:
        """The first tensor with a number that is not finite, and NaN or infinity; None if there is none."""
        found = zip(self.places, self.host.tolist(), strict=False)
        return next(((place, value) for place, value in found if not math.isfinite(value)), None)


class FiniteCheck(Observer):
    """Raises `WrongValue` for the first call that returned a number that is not finite.

    Args:
        run: The run. With random weights (`--weights dummy`) the check only warns, since their numbers mean nothing.
        before: Tells whether a call decodes or writes; the check waits for all results before it.
    """

    def __init__(self, run: Run, before: Any) -> None:
        self.run, self.waits_before = run, before
        self.random = run.options.get("weights") == "dummy"
        self.call: CallInfo | None = None
        self.turns: list[LoopTurn] = []
        self.now: Batch | None = None
        self.sent: deque[Batch] = deque()
        self.spare: list[Batch] = []
        self.seen: set[str] = set()

    def node_started(self, call: CallInfo, arguments: Mapping[str, Any]) -> None:
        if (self.now is not None or self.sent) and self.waits_before(call):
            self.read(wait=True)
        self.call = call
        _CURRENT.set(self)

    def node_finished(self, call: CallInfo, seconds: float, outputs: Mapping[str, Any]) -> None:
        for port, value in outputs.items():
            for number, each in enumerate(value) if isinstance(value, list | tuple) else ((-1, value),):
                if isinstance(each, Port) and type(each).finite_tensors is not Port.finite_tensors:
                    for name, tensor in each.finite_tensors().items():
                        entry = name if number < 0 else f"{number}.{name}" if name else str(number)
                        self.look(call, port, entry, tensor, type(each).__name__)
        self.call = None
        if self.sent:
            self.read(wait=False)

    def node_failed(self, call: CallInfo, error: BaseException) -> None:
        self.call = None

    def loop_started(self, loop: LoopInfo, turns: int) -> None:
        self.turns.append(LoopTurn(loop.id, 0, turns))

    def turn_started(self, loop: LoopInfo, index: int, variables: Mapping[str, Any]) -> None:
        is_step = any(isinstance(value, Step) for value in variables.values())
        self.turns[-1] = LoopTurn(loop.id, index, self.turns[-1].count, is_step)

    def turn_finished(self, loop: LoopInfo, index: int, seconds: float) -> None:
        self.send()

    def loop_finished(self, loop: LoopInfo) -> None:
        self.turns.pop()

    def run_finished(self, status: str, error: BaseException | None) -> None:
        self.call = None
        self.read(wait=True)

    def look(self, call: CallInfo, port: str, name: str, tensor: torch.Tensor, kind: str = "") -> None:
        """Check a tensor, at once on the CPU and later on a GPU; whole numbers are left out."""
        if not tensor.is_floating_point() or tensor.is_meta or not tensor.numel():
            return
        if tensor.element_size() == 1:
            tensor = tensor.float()  # torch reduces no 8-bit numbers
        if not self.is_read_later(tensor):
            value = extreme(tensor)
            if not math.isfinite(value):
                self.read(wait=True)
                self.found(self.place(call, port, name, tensor, kind), value)
            return
        self.put_off(self.place(call, port, name, tensor, kind), tensor)

    def is_read_later(self, tensor: torch.Tensor) -> bool:
        """Whether reading a number of the tensor would wait for a GPU."""
        return tensor.device.type != "cpu"

    def place(self, call: CallInfo, port: str, name: str, tensor: torch.Tensor, kind: str) -> Place:
        return Place(call, port, name, kind, tensor.dtype, tuple(tensor.shape), tuple(self.turns))

    def put_off(self, place: Place, tensor: torch.Tensor) -> None:
        """Start the check of a tensor whose result is read later."""
        if self.now is None:
            self.now = self.spare.pop() if self.spare else Batch(tensor.device)
        self.now.add(place, tensor)
        if len(self.now.places) == SLOTS:
            self.send()

    def send(self) -> None:
        """Start the copy of the results so far to the host."""
        if self.now is not None:
            self.now.send()
            self.sent.append(self.now)
            self.now = None

    def read(self, wait: bool) -> None:
        """Read the results that have arrived, or wait for all of them.

        Raises:
            WrongValue: If a number is not finite.
        """
        if wait:
            self.send()
        while self.sent and (wait or self.sent[0].arrived()):
            batch = self.sent.popleft()
            batch.wait()
            first = batch.first()
            batch.places.clear()
            self.spare.append(batch)
            if first is not None:
                self.found(*first)

    def found(self, place: Place, value: float) -> None:
        """Raise the error, or warn once for each node if the weights are random."""
        message = in_words(place, value)
        if not self.random:
            made = None if place.call is self.call else place.call
            raise WrongValue(message, call=made, help=help_for(place.call, place.kind, place.dtype))
        if place.call.id not in self.seen:
            self.seen.add(place.call.id)
            maker = "" if place.call is self.call else f"{place.call.id}: "  # a warning names the running call itself
            self.run.warn(f"{maker}{message}; the weights are random, and the run goes on")


def in_words(place: Place, value: float) -> str:
    """The message: the output, its value, and the turn of each loop."""
    kind = "NaN (not a number)" if math.isnan(value) else "an infinite number"
    dtype, shape = str(place.dtype).removeprefix("torch."), "x".join(map(str, place.shape))
    if place.port:
        branch = f", `{place.name}`" if place.name else ""
        what = f"its output `{place.port}` ({place.kind}{branch}, {dtype} {shape})"
    else:
        what = f"its {place.name} ({dtype} {shape})"
    turns = "".join(f", in {turn}" for turn in reversed(place.turns))
    return f"{what} {'is' if place.port else 'are'} not finite: there is {kind}{turns}"
