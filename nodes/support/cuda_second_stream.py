"""Two threads of one run on one GPU: the second has a stream of its own, and CUDA events order their work."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from ...graph.contract.second_stream import SecondStream
from .value_tensors import tensors_of


class CudaSecondStream(SecondStream):
    """A stream for the second thread.

    Args:
        device: The device of the run, such as `cuda`.
    """

    def __init__(self, device: str) -> None:
        self._stream = torch.cuda.Stream(torch.device(device))

    @contextmanager
    def beside(self) -> Iterator[None]:
        # Each thread has its own current device and stream.
        with torch.cuda.device(self._stream.device), torch.cuda.stream(self._stream):
            yield

    def given(self) -> torch.cuda.Event:
        event = torch.cuda.Event()
        event.record()
        return event

    def taken(self, mark: torch.cuda.Event, values: Sequence[Any]) -> None:
        stream = torch.cuda.current_stream()
        stream.wait_event(mark)
        for value in values:
            for _, tensor, _ in tensors_of(value):
                if tensor.is_cuda:
                    tensor.record_stream(stream)  # else its memory could be reused too early
