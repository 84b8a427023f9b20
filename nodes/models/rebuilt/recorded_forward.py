"""The forward of a rebuilt transformer as one CUDA graph, where the host is slower than the GPU.

In one run of a loop, for one branch of guidance:

1. The first forward runs as ever. It compiles kernels, times attention backends and makes the values of the prompt. If
   another backend than that of this forward is chosen, the next one is the first.
2. The second is measured: the seconds of the host until it returns, and those of the GPU.
3. At the third the host's share decides. If the host was busy nearly all the time, this forward is captured as a CUDA
   graph, and the graph launches it and all later ones. If not, nothing more is measured.

All processes of a sequence decide together: the graph holds their exchanges. A forward with other shapes or numbers,
or one that somebody looks into (a profiler, a count of operations), runs as ever.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Hashable
from dataclasses import replace
from time import perf_counter
from typing import Any

import torch

from ....graph.contract.node import Run
from ...support import device_memory
from ..ranks.collectives import capturing, largest
from .cuda_graph import CaptureFailed, CudaGraphs
from .forward_inputs import Inputs
from .loop_values import BranchCall, Values, telling
from .recording import Measured, Recording
from .step_tables import placed

HOST_SHARE = 0.8
"""The least share of the GPU's seconds that the host takes where it counts as the slower one. The GPU's seconds contain
its waits for the host, so the share is near 1 there.
"""

LEAST_STEPS = 5
"""The least number of steps from the capture on: a capture takes about as long as two steps."""

MARGIN = 1.5
"""Factor on the memory of a forward, which the graph needs once more. It is a guess for fragmentation."""

TRIES = 4
"""Decisions that may be put off, because somebody looked into a forward or it was not measured."""

AGAIN, NO, YES = 0, 1, 2

_refused: weakref.WeakKeyDictionary[Run, str] = weakref.WeakKeyDictionary()
"""The runs in which a capture failed, with the reason. They do not try it again."""


class RecordedForward:
    """The forward of one branch in one run of a loop. The values of its prompts hold it, and are dropped with it.

    Args:
        prompt: These values: a graph reads their memory.
        run: Receives details, and a warning if a capture fails.
    """

    def __init__(self, prompt: Values, run: Run) -> None:
        self._prompt = weakref.ref(prompt)
        self.run, self.graphs = run, CudaGraphs()
        self.key: Hashable = None
        self.inputs: Inputs | None = None
        self.measured: Measured | None = None
        self.recording: Recording | None = None
        self.before = 0.0
        self.tries = 0
        self.over = False

    def call(self, launched: Launched, *args: Any, **kwargs: Any) -> Any:
        """The forward of a transformer."""
        forward = launched.transformer
        if self.over and self.recording is None:
            return forward(*args, **kwargs)
        given = Inputs.of(args, kwargs)
        key = given.key(), launched.told.steps is not None
        if self.recording is not None:
            if key != self.key or looked_into(self.run):
                return forward(*args, **kwargs)
            return self._replayed(self.recording, launched, given)
        if key != self.key:
            self.key, self.inputs, self.measured = key, None, None
            return forward(*args, **kwargs)
        if self.inputs is None:  # the second call
            self.over = launched.steps() <= LEAST_STEPS or not given.on_one_device or self.run in _refused
            return forward(*args, **kwargs) if self.over else self._measure(launched, given)
        return self._decide(launched, given)

    def _measure(self, launched: Launched, given: Inputs) -> Any:
        """A forward whose kernels are launched one by one: those of the graph, from the tensors that it will read."""
        if self.inputs is None:
            self.inputs = given.copied()
        else:
            self.inputs.take(given)
        if looked_into(self.run):
            return given.passed_to(launched.transformer)
        self.graphs.settle()  # a full queue would stop the host, and make it look slow
        memory, began, start = self.graphs.allocated(), self.graphs.mark(), perf_counter()
        made = launched.called(self.inputs, steps=placed(launched.told.steps, given.device))
        host = perf_counter() - start
        self.measured = Measured(host, began, self.graphs.mark(), max(self.graphs.peak() - memory, 0))
        return made

    def _decide(self, launched: Launched, given: Inputs) -> Any:
        """The forward after a measured one: captured, or not."""
        forward, own = launched.transformer, self._verdict(launched.steps())
        processes, measured = self.run.processes, self.measured
        needed = MARGIN * measured.memory if measured is not None else 0.0
        lacking = self.graphs.free(self.run) < needed
        unready = measured is None or looked_into(self.run)
        if processes.group("sequence").rank:
            own = AGAIN  # times differ, and the first process decides
        verdict, lacks, waits = largest(processes, "sequence", [own, lacking, unready])
        if verdict == YES and not lacks and not waits:
            return self._record(launched, given)
        self.tries += 1
        if verdict == NO or lacks or self.tries == TRIES:
            self._finish()
            if verdict == YES and lacks:
                size = device_memory.size(needed)
                self.run.detail(launch=f"kernel by kernel: a CUDA graph needs up to {size} of free memory")
            return given.passed_to(forward)
        return self._measure(launched, given)

    def _verdict(self, steps: int) -> int:
        """Whether the measured forward pays for a capture, as far as this process knows."""
        if steps < LEAST_STEPS or self.run in _refused:
            return NO
        if self.measured is None:
            return AGAIN
        self.before = self.measured.seconds()
        return YES if self.measured.host >= HOST_SHARE * self.before else NO

    def _record(self, launched: Launched, given: Inputs) -> Any:
        """Capture the forward, in all processes of the sequence, and launch it."""
        assert self.inputs is not None
        assert self.measured is not None
        host, reason = self.measured.host, ""
        recording: Recording | None = None
        try:
            recording = self._captured(launched, self.inputs)
        except CaptureFailed as failed:
            reason = str(failed)
        (broken,) = largest(self.run.processes, "sequence", [recording is None])
        self._finish()
        if broken:
            del recording
            self._refuse(reason or "another process could not capture it")
            return given.passed_to(launched.transformer)
        self.recording = recording
        assert recording is not None
        said = f"the host took {host:.3g} s of {self.before:.3g} s to launch the kernels one by one"
        self.run.detail(launch=f"one CUDA graph: {said}")
        return self._replayed(recording, launched, given)

    def _captured(self, launched: Launched, inputs: Inputs) -> Recording:
        prompt, steps = self._prompt(), placed(launched.told.steps, inputs.device)
        assert prompt is not None, "it holds this object"
        dtype = next(tensor.dtype for tensor in inputs.tensors if tensor.is_floating_point())
        kept = [prompt] if steps is None else [prompt, steps.alone]
        with capturing() as exchanges:
            for values in kept:
                values.complete = True
            try:
                # Values that the branches of a step share are made anew in each step, at other addresses.
                graph = self.graphs.capture(lambda: launched.called(inputs, step=None, steps=steps), dtype)
            finally:
                for values in kept:
                    values.complete = False
        return Recording(graph, inputs, exchanges, steps)

    def _replayed(self, recording: Recording, launched: Launched, given: Inputs) -> Any:
        seconds = recording.wait()
        if seconds is not None:
            self.run.detail(launch_seconds={"one by one": round(self.before, 5), "one graph": round(seconds, 5)})
        return recording.replay(self.graphs, given, launched.told.steps)

    def _finish(self) -> None:
        """Measure no more."""
        self.over, self.inputs, self.measured = True, None, None

    def _refuse(self, reason: str) -> None:
        _refused[self.run] = reason
        self.run.detail(launch=f"kernel by kernel: the capture of a CUDA graph failed: {reason}")
        self.run.warn(f"the transformer cannot be launched as one CUDA graph ({reason}); the run goes on without it")


class Launched:
    """A transformer whose forward may be recorded: the same attributes, and a call.

    Args:
        transformer: Computes a forward: the view, or the part of it for this process.
        view: The view with the rebuilt blocks.
        recorded: The state of this branch's recording. It outlasts the step.
        steps: Gives the number of steps, this one included, at which the loop computes this branch.
    """

    def __init__(self, transformer: Any, view: Any, recorded: RecordedForward, steps: Callable[[], int]) -> None:
        self.transformer, self.view, self.recorded, self.steps = transformer, view, recorded, steps

    @property
    def told(self) -> BranchCall:
        """The facts that the caller told about this forward."""
        call: BranchCall = self.view.once.call
        return call

    def called(self, inputs: Inputs, **told: Any) -> Any:
        """The forward of some inputs, with other facts told about it than the caller's."""
        with telling(self.view, replace(self.told, **told)):
            return inputs.passed_to(self.transformer)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.transformer, name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.recorded.call(self, *args, **kwargs)


def looked_into(run: Run) -> bool:
    """Whether somebody looks at the operations of this forward: a graph hides them."""
    return (
        run.ranges
        or torch.autograd._profiler_enabled()
        or torch._C._len_torch_dispatch_stack() > 0
        or torch._C._len_torch_function_stack() > 0
    )
