"""`--profile`, `--trace` and `--trace-values`: their options, and the observers that they add to a run."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from ..compiler.plan import Plan
from ..contract.errors import NodeError
from ..contract.events import Observer, Observers
from ..contract.suggestions import did_you_mean
from .clock import Clock
from .observers.chosen_calls import EVERY, ChosenCalls, Steps, matches, paths_of
from .observers.kernel_profile import KernelProfile, longest_first, quiet_profiler
from .observers.nvtx_ranges import NvtxRanges, TorchRanges
from .observers.trace import Trace
from .observers.trace_file import GrowingFile, TextParts
from .observers.trace_values import TraceValues
from .observers.unmeasured import without_times
from .record import Recorder

MODES = ("nodes", "off", "torch", "nvtx")


@dataclass(frozen=True)
class Profiling:
    """The measurements of a run.

    Attributes:
        mode: `nodes`: time and memory of each node. `off`: neither. `torch`: also the kernels of the chosen calls, by
            the PyTorch Profiler. `nvtx`: also NVTX ranges for NVIDIA Nsight Systems.
        nodes: Pattern of the paths of nodes, loops and composites that `torch` and `nvtx` choose.
        steps: Turns of loops that they choose, such as `0:3`; None for all.
        trace: File for the course of the run, for https://ui.perfetto.dev; relative to the current folder.
        trace_values: File for statistics of every output tensor; relative to the current folder.

    Raises:
        NodeError: If the options do not fit together.
    """

    mode: str = "nodes"
    nodes: str | None = None
    steps: str | None = None
    trace: Path | str | None = None
    trace_values: Path | str | None = None

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            help = did_you_mean(self.mode, MODES) or f"it is one of {', '.join(MODES)}"
            raise NodeError(f"there is no profile {self.mode!r}", help=help)
        for option, value in (("--profile-nodes", self.nodes), ("--profile-steps", self.steps)):
            if value is not None and self.mode not in ("torch", "nvtx"):
                message = f"{option} chooses the calls of a profile by kernels, and this run has none"
                raise NodeError(message, help="add `--profile torch` or `--profile nvtx`")
        if self.steps is not None:
            Steps.of(self.steps)
        if self.trace is not None and self.trace_values is not None:
            one, other = ((Path.cwd() / name).resolve() for name in (self.trace, self.trace_values))
            if one == other:
                raise NodeError("--trace and --trace-values name one file", help="give each a name of its own")

    @property
    def needs_every_node(self) -> bool:
        """Whether results of earlier runs would leave gaps in the measurements."""
        return self.mode in ("torch", "nvtx") or self.trace is not None or self.trace_values is not None

    def chosen(self) -> ChosenCalls:
        """A new follower of the loops of a run."""
        return ChosenCalls(self.nodes or EVERY, Steps.of(self.steps) if self.steps is not None else None)

    def require_possible(self, plan: Plan, device: str) -> None:
        """Check the options against a plan and a device.

        Raises:
            NodeError: If the device has no NVTX ranges, or no call of the plan is chosen.
        """
        if self.mode == "nvtx" and not device.startswith("cuda"):
            message = "--profile nvtx needs an NVIDIA GPU, and this run is on the CPU"
            help = "use `--profile torch`, which also measures the operators of a CPU"
            raise NodeError(message, help=help, code="unavailable")
        pattern = self.nodes
        if pattern is not None and not any(matches(pattern, call) for call in plan.calls()):
            paths = dict.fromkeys(path for call in plan.calls() for path in paths_of(call))
            help = did_you_mean(pattern, paths) or f"its nodes are {', '.join(sorted(paths))}"
            raise NodeError(f"--profile-nodes {pattern!r} chooses no node of this workflow", help=help)

    def require_startable(self, plan: Plan, device: str, overwrite: bool) -> None:
        """Check the options before other processes are started. One of them will write the files.

        Raises:
            NodeError: See `require_possible`; or if a file exists or cannot be written.
        """
        self.require_possible(plan, device)
        for option, name in (("--trace", self.trace), ("--trace-values", self.trace_values)):
            if name is not None:
                GrowingFile(name, overwrite, option).drop()

    def files(self) -> dict[str, Path]:
        """The files of traces that are there, by the names of their options."""
        named = {"trace": self.trace, "trace-values": self.trace_values}
        return {option: Path(name) for option, name in named.items() if name is not None and Path(name).exists()}

    def options(self) -> dict[str, Any]:
        """The options for the record. Those that have their default are left out, and files are no part of it."""
        found = {"profile": self.mode if self.mode != "nodes" else None}
        found |= {"profile_nodes": self.nodes, "profile_steps": self.steps}
        return {name: value for name, value in found.items() if value is not None}


class Watch:
    """The observers of one run that its `Profiling` adds.

    As a context, it removes the files of traces if the run did not come to the point of completing them.

    Args:
        plan: The plan.
        profiling: The options.
        device: The device of the run.
        overwrite: Whether files that exist are replaced.
        clock: The clock of the run.
        rank: The number of this process among several; None for one alone. Only rank 0 writes files.

    Raises:
        NodeError: If the options are not possible, or a file cannot be written.
    """

    def __init__(
        self, plan: Plan, profiling: Profiling, device: str, overwrite: bool, clock: Clock, rank: int | None = None
    ) -> None:
        profiling.require_possible(plan, device)
        self.profiling, self.rank, self._files = profiling, rank, list[GrowingFile]()
        self._observers: Observers | None = None
        self.kernels: KernelProfile | None = None
        self._first: list[Observer] = []
        self._around: list[KernelProfile | NvtxRanges] = []
        self._others: list[dict[str, Any]] = []
        self.trace: Trace | None = None
        traced: GrowingFile | TextParts | None = None
        values: GrowingFile | None = None
        try:
            if rank:
                traced = TextParts() if profiling.trace is not None else None
            else:
                values = self._file(profiling.trace_values, overwrite, "--trace-values")
                traced = self._file(profiling.trace, overwrite, "--trace")
            if traced is not None:
                self.trace = Trace(traced, clock.epoch, self._say, rank)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        # The trace notes the end of a call before others take time for it, and statistics come last.
        trace = self.trace
        self._last: list[Observer] = [trace] if trace is not None else []
        if profiling.mode == "torch":
            quiet_profiler()
            lanes = trace.kernels if trace is not None and not rank else None
            self.kernels = KernelProfile(profiling.chosen(), self._say, lanes, clock)
            self._surround(self.kernels)
        elif profiling.mode == "nvtx":
            self._surround(NvtxRanges(profiling.chosen(), TorchRanges(), self._say))
        if values is not None:
            self._last.append(TraceValues(values, plan.loaded, self._say))

    def _file(self, name: Path | str | None, overwrite: bool, option: str) -> GrowingFile | None:
        if name is None:
            return None
        self._files.append(GrowingFile(name, overwrite, option))
        return self._files[-1]

    def _surround(self, observer: KernelProfile | NvtxRanges) -> None:
        self._first.append(observer.first)
        self._last.append(observer)
        self._around.append(observer)

    def _say(self, message: str) -> None:
        if self._observers is not None:
            self._observers.warned(None, message)

    def __enter__(self) -> Watch:
        if self.kernels is not None:
            self.kernels.prepare()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for file in self._files:
            file.drop()

    def recorder(self, clock: Clock) -> Recorder:
        """The recorder of the run, whose time is that of a clock."""
        return Recorder(clock, measured=self.profiling.mode != "off")

    def observers(self, recording: Sequence[Observer], others: Sequence[Observer]) -> Observers:
        """All observers of the run, in order.

        Args:
            recording: The observers that make the record.
            others: The observers of the caller.
        """
        self._observers = Observers([*self._first, *recording, *self._last, *others])
        return self._observers

    @contextmanager
    def around_steps(self) -> Iterator[None]:
        """Surrounds the steps of the plan, in the thread that runs them."""
        with ExitStack() as stack:
            for observer in self._around:
                stack.enter_context(observer.around_steps())
            yield

    def notes(self) -> dict[str, Callable[[], str]]:
        """On a rank other than 0: the measurements for `hear` of rank 0, as texts by name."""
        found: dict[str, Callable[[], str]] = {}
        if self.trace is not None and isinstance(self.trace.file, TextParts):
            found["trace"] = self.trace.file.text
        if self.kernels is not None:
            found["kernels"] = lambda: json.dumps(self._kernels())
        return found

    def hear(self, noted: Callable[[str], Mapping[int, str | None]], say: Callable[[str], None]) -> None:
        """On rank 0, at the end of the run: take over the measurements of other ranks.

        Args:
            noted: Gives the texts of a name by rank; None for a rank that sent none.
            say: Takes the text of a warning.
        """
        for name, option in (("trace", self.trace), ("kernels", self.kernels)):
            if option is None:
                continue
            texts = noted(name)
            if silent := [str(rank) for rank, text in texts.items() if text is None]:
                say(f"the {name} of rank {', '.join(silent)} {'is' if name == 'trace' else 'are'} not known")
            if name == "trace" and self.trace is not None:
                self.trace.complete([text for text in texts.values() if text], say)
            else:
                self._others = [row for text in texts.values() if text for row in json.loads(text)]

    def _kernels(self) -> list[dict[str, Any]]:
        """The known kernels of all ranks, each with the number of its rank."""
        assert self.kernels is not None
        if self.rank is None:
            return self.kernels.listed()
        own = [{"rank": self.rank, **row} for row in self.kernels.listed()]
        return sorted([*own, *self._others], key=longest_first)

    def complete(self, record: dict[str, Any]) -> dict[str, Any]:
        """The record with the options, the kernels and the profiler's own time, and times as in `timed`."""
        record["options"] |= self.profiling.options()
        if self.kernels is not None:
            record["kernels"] = self._kernels()
            record["profiler_seconds"] = self.kernels.seconds
        return self.timed(record)

    def timed(self, times: dict[str, Any]) -> dict[str, Any]:
        """`Recorder.times`; with `off`, null where a number would stand that was not measured."""
        return without_times(times) if self.profiling.mode == "off" else times
