"""A forward that was measured, and one that was captured as a CUDA graph."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils._pytree import tree_map

from ..ranks.collectives import Exchanges
from .cuda_graph import CudaGraphs, Graph
from .forward_inputs import Inputs
from .loop_values import LoopSteps

AHEAD = 2
"""Forwards that the host may be ahead of the GPU. Without a limit it would launch all steps of a loop at once: times of
steps would be wrong, and an interrupt would come late.
"""


@dataclass(frozen=True)
class Measured:
    """One forward whose kernels were launched one by one.

    Attributes:
        host: Seconds until it returned.
        began: The GPU's event before it.
        ended: The GPU's event after it.
        memory: The most bytes that it needed beside what was there before; or more, if memory was not measured for
            this call alone.
    """

    host: float
    began: Any
    ended: Any
    memory: int

    def seconds(self) -> float:
        """The GPU's seconds, with its waits for the host. Waits until they are over."""
        self.ended.synchronize()
        return float(self.began.elapsed_time(self.ended)) / 1000


@dataclass
class Recording:
    """A captured forward.

    Attributes:
        graph: The graph.
        inputs: Tensors that it reads.
        exchanges: Its exchanges with other processes.
        steps: The steps of the loop, with the number that the graph reads; None if it reads no tables of steps.
        flying: Events before and after the latest launches.
        timed: Whether the time of a launch was told.
    """

    graph: Graph
    inputs: Inputs
    exchanges: Exchanges
    steps: LoopSteps | None = None
    flying: deque[tuple[Any, Any]] = field(default_factory=deque)
    timed: bool = False

    def replay(self, graphs: CudaGraphs, given: Inputs, steps: LoopSteps | None) -> Any:
        """The forward of other inputs of the same shapes. Its result stays as it is when the graph runs again."""
        self.inputs.take(given)
        if self.steps is not None and steps is not None:
            self.steps.place.fill_(steps.index)
        began = graphs.mark()
        self.graph.replay()
        self.flying.append((began, graphs.mark()))
        for processes, sent in self.exchanges:
            processes.exchanged(sent)
        return tree_map(lambda value: value.clone() if isinstance(value, torch.Tensor) else value, self.graph.made)

    def wait(self) -> float | None:
        """Wait until the host is no longer too far ahead. The seconds of the launch that ended by it, once."""
        if len(self.flying) < AHEAD:
            return None
        began, ended = self.flying.popleft()
        ended.synchronize()
        if self.timed:
            return None
        self.timed = True
        return float(began.elapsed_time(ended)) / 1000
