"""Two threads on one GPU: each sees the values of the other one, and no memory is reused too early."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from sgd.nodes.support.cuda_second_stream import CudaSecondStream

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
CYCLES = 100_000_000
"""The GPU is busy for about 50 ms."""
SIZE = 1 << 24


def other_thread(work: Any) -> Any:
    made: list[Any] = []
    thread = threading.Thread(target=lambda: made.append(work()))
    thread.start()
    thread.join()
    return made[0]


def test_values_cross_in_order_and_keep_their_memory_until_they_are_read() -> None:
    stream = CudaSecondStream("cuda")
    torch.cuda._sleep(CYCLES)
    value = torch.zeros(SIZE, device="cuda").add_(1)
    mark = stream.given()
    held = [value]
    del value

    def work() -> Any:
        with stream.beside():
            assert torch.cuda.current_stream() != torch.cuda.default_stream()
            stream.taken(mark, held)
            torch.cuda._sleep(CYCLES)
            doubled = held.pop() * 2  # the last reference goes while the GPU is busy
            return stream.given(), [doubled]

    back, made = other_thread(work)
    written = [torch.full((SIZE,), 7.0, device="cuda") for _ in range(4)]  # in memory that is free by then
    stream.taken(back, made)
    assert bool((made[0] == 2).all())
    assert all(bool((each == 7).all()) for each in written)


def test_memory_of_the_second_thread_is_kept_for_the_first() -> None:
    stream = CudaSecondStream("cuda")

    def make() -> Any:
        with stream.beside():
            value = [torch.full((SIZE,), 3.0, device="cuda")]
            return stream.given(), value

    mark, value = other_thread(make)
    stream.taken(mark, value)
    torch.cuda._sleep(CYCLES)
    sums = value.pop().sum()

    def fill() -> Any:
        with stream.beside():
            return [torch.full((SIZE,), 5.0, device="cuda") for _ in range(4)]

    filled = other_thread(fill)
    assert float(sums) == 3.0 * SIZE
    assert len(filled) == 4
