"""The second thread of a run on a GPU of its own: streams on both GPUs, copies of tensors, and models on each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch

from ...graph.contract.node import Run
from ...graph.contract.second_stream import SecondDevice
from ..support.moved_values import Move
from ..support.value_tensors import tensors_of
from .memory.weights import Weights
from .model import Model


class SecondModels:
    """Pairs of equal models on two devices. Each loads its own components.

    Args:
        run: The run. Its session may have components on the other device already.
        device: The other device.
    """

    def __init__(self, run: Run, device: str) -> None:
        self.run, self.device = run, device
        self._pairs: list[tuple[Weights, Weights]] = []

    def there(self, value: Any) -> Any:
        """The model on the other device; values of other types stay."""
        return self._other(value, 0)

    def back(self, value: Any) -> Any:
        """The model on the device of the run."""
        return self._other(value, 1)

    def _other(self, value: Any, side: int) -> Any:
        if not isinstance(value, Model) or any(pair[1 - side] is value.weights for pair in self._pairs):
            return value
        pair = next((pair for pair in self._pairs if pair[side] is value.weights), None)
        if pair is None:
            if side:
                return value
            pair = value.weights, value.weights.on(self.device, self.run)
            self._pairs.append(pair)
        return replace(value, weights=pair[1 - side])


def copier(start: torch.device, end: torch.device) -> Callable[[torch.Tensor], torch.Tensor]:
    """A function that copies tensors from one device to another without waiting. It returns other tensors as they are.

    The copy comes after the work of this thread's stream on the one device, and before that of its stream on the other.
    """
    return lambda tensor: tensor.to(end, non_blocking=True) if tensor.device == start else tensor


class SecondCard(SecondDevice):
    """Streams on two GPUs for the second thread, which works on the second GPU and copies in both directions.

    Args:
        run: The run, on the first GPU.
        device: The second GPU, such as `cuda:1`.
    """

    def __init__(self, run: Run, device: str) -> None:
        first = torch.device(run.device)
        index = torch.cuda.current_device() if first.index is None else first.index
        self.first, self.second = torch.device("cuda", index), torch.device(device)
        self._streams = [torch.cuda.Stream(each) for each in (self.first, self.second)]
        models = SecondModels(run, device)
        self._there = Move(copier(self.first, self.second), models.there)
        self._back = Move(copier(self.second, self.first), models.back)

    def there(self, value: Any) -> Any:
        return self._there(value)

    def back(self, value: Any) -> Any:
        return self._back(value)

    @contextmanager
    def beside(self) -> Iterator[None]:
        # A thread has a current stream for each GPU. The second GPU becomes the current one, since it is entered last.
        with torch.cuda.stream(self._streams[0]), torch.cuda.stream(self._streams[1]):
            yield

    @contextmanager
    def around(self) -> Iterator[None]:
        with torch.cuda.device(self.second):
            yield

    def given(self) -> list[torch.cuda.Event]:
        marks = []
        for device in (self.first, self.second):
            event = torch.cuda.Event()
            event.record(torch.cuda.current_stream(device))
            marks.append(event)
        return marks

    def taken(self, mark: Sequence[torch.cuda.Event], values: Sequence[Any]) -> None:
        streams = {device: torch.cuda.current_stream(device) for device in (self.first, self.second)}
        for stream in streams.values():
            for event in mark:
                stream.wait_event(event)
        for value in values:
            for _, tensor, _ in tensors_of(value):
                if tensor.device in streams:
                    tensor.record_stream(streams[tensor.device])  # else its memory could be reused too early
