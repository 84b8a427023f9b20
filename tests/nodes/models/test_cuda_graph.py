"""A capture that fails, with doubles of torch: the stream, the allocator and the generator are put right."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from sgd.nodes.models.rebuilt import cuda_graph
from sgd.nodes.models.rebuilt.cuda_graph import CaptureFailed, CudaGraphs

POOL = (0, 7)


@pytest.fixture
def torch_log(monkeypatch):
    """What is asked of torch. `"invalid"` in `faults` is a capture that CUDA ends with an error."""
    log: list[Any] = []
    faults: set[str] = set()

    class Captured:
        ended = False

        def pool(self) -> Any:
            if not self.ended:
                raise RuntimeError("without a preceding successful capture")
            return POOL

        def replay(self) -> None:
            log.append("replay")

        def reset(self) -> None:
            log.append("reset")

    class Capture:
        capture_stream = "own stream"

        def __init__(self, graph: Captured, pool: Any = None, capture_error_mode: str = "global") -> None:
            assert capture_error_mode == "thread_local"
            self.graph = graph

        def __enter__(self) -> None:
            log.append("begin")

        def __exit__(self, *_: Any) -> None:
            if "invalid" in faults:
                faults.clear()
                raise RuntimeError("operation failed\ndue to a previous error during capture")
            log.append("end")
            self.graph.ended = True

    def noted(name: str, result: Any = None) -> Any:
        def note(*arguments: Any, **_: Any) -> Any:
            log.append((name, *arguments))
            return result

        return note

    for name, value in {
        "CUDAGraph": Captured,
        "graph": Capture,
        "current_stream": lambda: "main stream",
        "current_device": lambda: 0,
        "graph_pool_handle": lambda: POOL,
        "set_stream": noted("set_stream"),
        "empty_cache": noted("empty_cache"),
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
    for name in ("_cuda_endAllocateToPool", "_cuda_releasePool"):
        monkeypatch.setattr(torch._C, name, noted(name), raising=False)
    monkeypatch.setattr(torch, "zeros", noted("zeros"))
    monkeypatch.setattr(cuda_graph, "_make_workspaces", lambda stream, dtype: None)
    return log, faults


def test_a_capture(torch_log):
    log, _ = torch_log
    found = CudaGraphs().capture(lambda: "made", torch.float32)
    found.replay()
    assert found.made == "made"
    assert log == ["begin", "end", ("set_stream", "main stream"), "replay"]


def test_an_error_of_the_call(torch_log):
    """The capture came to its end, so the graph gives its memory back itself."""
    log, _ = torch_log

    def call() -> None:
        raise ValueError("a wrong value")

    with pytest.raises(CaptureFailed, match=r"^a wrong value$"):
        CudaGraphs().capture(call, torch.float32)
    assert log[:4] == ["begin", "end", ("set_stream", "main stream"), "reset"]
    assert not any("Pool" in str(entry) for entry in log)
    assert log[-1] == ("empty_cache",)


def test_a_capture_that_cuda_ends(torch_log):
    """torch's allocator is taken out of the capture, and another capture mends the generator."""
    log, faults = torch_log
    faults.add("invalid")

    def call() -> None:
        raise RuntimeError("operation not permitted\nwhen stream is capturing")

    with pytest.raises(CaptureFailed, match=r"^operation not permitted when stream is capturing$"):
        CudaGraphs().capture(call, torch.float32)
    undone = [("_cuda_endAllocateToPool", 0, POOL), ("_cuda_releasePool", 0, POOL), "reset"]
    mended = ["begin", ("zeros", 1), "end", "reset"]
    assert log == ["begin", ("set_stream", "main stream"), *undone, *mended, ("empty_cache",)]


def test_an_interrupt_puts_the_stream_back(torch_log):
    log, _ = torch_log

    def call() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        CudaGraphs().capture(call, torch.float32)
    assert ("set_stream", "main stream") in log
    assert log[-1] == ("empty_cache",)
