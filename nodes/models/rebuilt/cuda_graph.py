"""A CUDA graph of one call: the kernels that the call launches are captured, and launched again all at once.

Everything here speaks to the GPU. Tests put a double in place of `CudaGraphs`.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch

from ....graph.contract.node import Run
from ....graph.contract.process_state import exclusive
from ...support import device_memory

MODE = "thread_local"
"""Other threads, such as the watchdog of NCCL and a thread that loads, may ask and allocate during a capture."""


class CaptureFailed(Exception):
    """A call cannot be captured; the message is the reason. The GPU and torch are as before."""


@dataclass(frozen=True)
class Graph:
    """A captured call.

    Attributes:
        replay: Launches the kernels of the call again, on the current stream.
        made: What the call returned. Each replay writes these tensors.
    """

    replay: Callable[[], None]
    made: Any


class CudaGraphs:
    """The current GPU."""

    def settle(self) -> None:
        """Wait for all work of the current stream."""
        torch.cuda.current_stream().synchronize()

    def mark(self) -> torch.cuda.Event:
        """An event at the end of the work so far, with a time."""
        event = torch.cuda.Event(enable_timing=True, blocking=True)
        event.record()
        return event

    def allocated(self) -> int:
        """Bytes that torch has allocated."""
        return int(torch.cuda.memory_allocated())

    def peak(self) -> int:
        """The most bytes that torch had allocated since the measurement began."""
        return int(torch.cuda.max_memory_allocated())

    def free(self, run: Run) -> int:
        """Bytes that are free for a graph, with those that torch has reserved and does not use."""
        return device_memory.free(run) or 0

    def capture(self, call: Callable[[], Any], dtype: torch.dtype) -> Graph:
        """Capture a call, which computes nothing now.

        Its tensors lie in memory of their own, which the graph keeps. Memory of others that it reads must stay.

        Args:
            call: Launches kernels, and never waits for the device. It ran before with the same shapes, so that all
                kernels are compiled.
            dtype: The dtype of its matrix products.

        Raises:
            CaptureFailed: If the call raises an error, or has an operation that no graph can hold.
        """
        # Another thread that waits for the whole device, or gives memory back to it, would break the capture.
        with exclusive():
            return _captured(call, dtype)


def _captured(call: Callable[[], Any], dtype: torch.dtype) -> Graph:
    before, pool, graph = torch.cuda.current_stream(), torch.cuda.graph_pool_handle(), torch.cuda.CUDAGraph()
    reason, done = "", False
    try:
        capture = torch.cuda.graph(graph, pool=pool, capture_error_mode=MODE)
        assert capture.capture_stream is not None, "torch made one"
        _make_workspaces(capture.capture_stream, dtype)
        with capture:
            made = call()
        done = True
        return Graph(graph.replay, made)
    except Exception as error:
        first = error.__context__ or error  # the end of the capture fails too
        reason = " ".join(str(first).split())[:200] or type(first).__name__
    finally:
        torch.cuda.set_stream(before)  # a capture that fails at its end leaves its own stream
        if not done:
            _abandon(graph, pool)
    raise CaptureFailed(reason)


def _make_workspaces(stream: torch.cuda.Stream, dtype: torch.dtype) -> None:
    """Make the workspaces of cuBLAS for a stream. Made in the capture, they would stay in the graph's memory."""
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        square = torch.zeros(16, 16, device="cuda", dtype=dtype)
        torch.addmm(square[0], square, square @ square)


def _abandon(graph: torch.cuda.CUDAGraph, pool: Any) -> None:
    """Undo the effects of a failed capture on torch.

    A capture that CUDA ends with an error leaves torch's allocator in the capture, the pool in use, and the random
    generator of the device in a state in which it refuses to draw.
    """
    try:
        graph.pool()  # the capture came to its end: the graph gives the pool back itself
    except RuntimeError:
        device = torch.cuda.current_device()
        for undo in ("_cuda_endAllocateToPool", "_cuda_releasePool"):
            with suppress(Exception):
                getattr(torch._C, undo)(device, pool)
    with suppress(Exception):
        graph.reset()
    with suppress(Exception):
        mended = torch.cuda.CUDAGraph()  # its end puts the generator right
        with torch.cuda.graph(mended, capture_error_mode=MODE):
            torch.zeros(1, device="cuda")
        mended.reset()
    torch.cuda.empty_cache()
