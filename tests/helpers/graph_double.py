"""A double of CUDA graphs on the CPU: a capture calls the function once, and a replay calls it again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from sgd.graph.contract.node import Run
from sgd.nodes.models.ranks.collectives import capturing
from sgd.nodes.models.rebuilt.cuda_graph import CaptureFailed, Graph
from torch.utils._pytree import tree_leaves


class Event:
    """An event of a GPU with a clock of its own, in milliseconds."""

    def __init__(self, log: list[str], at: float) -> None:
        self.log, self.at = log, at

    def synchronize(self) -> None:
        self.log.append("wait")

    def elapsed_time(self, end: Event) -> float:
        return end.at - self.at


class GraphDouble:
    """Takes the place of `CudaGraphs`.

    Attributes:
        log: What happened.
        seconds: What a forward takes on the GPU: between two events.
        failure: Why captures fail; empty if they work.
        free_bytes: Free memory. A forward needs 1000 bytes.
    """

    log: ClassVar[list[str]] = []
    seconds: ClassVar[float] = 0.0
    failure: ClassVar[str] = ""
    free_bytes: ClassVar[int] = 10_000

    def __init__(self) -> None:
        self._now = 0.0

    @classmethod
    def fresh(cls) -> type[GraphDouble]:
        """A class with a log of its own."""
        return type("Fresh", (cls,), {"log": []})

    def settle(self) -> None:
        self.log.append("settle")

    def mark(self) -> Event:
        self._now += 1000 * self.seconds
        return Event(self.log, self._now)

    def allocated(self) -> int:
        return 500

    def peak(self) -> int:
        return 1500

    def free(self, run: Run) -> int:
        return self.free_bytes

    def capture(self, call: Callable[[], Any], dtype: torch.dtype) -> Graph:
        self.log.append("capture")
        made = call()
        if self.failure:
            raise CaptureFailed(self.failure)

        def replay() -> None:
            self.log.append("replay")
            with capturing():  # a graph tells nobody about its exchanges
                again = call()
            for own, new in zip(tree_leaves(made), tree_leaves(again), strict=True):
                if isinstance(own, torch.Tensor):
                    own.copy_(new)

        return Graph(replay, made)
