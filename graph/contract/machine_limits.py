"""The measured limits of a machine, the work of a call, and how near the call came to the limits."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from .events import CallInfo


@dataclass(frozen=True)
class Work:
    """Work that was done.

    Attributes:
        flops: Floating-point operations of matrix products and the like, by dtype. A multiply-add counts as two.
        bytes: Bytes that all operations read and wrote: each operation reads its inputs and writes its result once.
    """

    flops: Mapping[str, int] = field(default_factory=dict)
    bytes: int = 0

    def __add__(self, other: Work) -> Work:
        names = {**self.flops, **other.flops}
        return Work({n: self.flops.get(n, 0) + other.flops.get(n, 0) for n in names}, self.bytes + other.bytes)

    def times(self, calls: int) -> Work:
        return Work({name: flops * calls for name, flops in self.flops.items()}, self.bytes * calls)

    @property
    def total(self) -> int:
        """Operations of all dtypes."""
        return sum(self.flops.values())


@dataclass(frozen=True)
class CallCount:
    """The count of one call.

    Attributes:
        work: The work; None if counting all of it would have cost more than was allowed.
        seconds: The cost of counting, in seconds of the processor.
        parts: The work of parts of the call by name, as far as they are known. A later count of such a call is cheaper
            with them.
    """

    work: Work | None
    seconds: float = 0.0
    parts: Mapping[str, Work] = field(default_factory=dict)


class WorkMeter(Protocol):
    """Counts the work of single calls, while they run. See `NodeLibrary.work_meter`."""

    def takes(self, call: CallInfo, arguments: Mapping[str, Any]) -> bool:
        """Whether this call can be counted without changing its results."""

    def key(self, arguments: Mapping[str, Any]) -> Hashable:
        """A value that is equal for calls of one node of one plan that may do the same work: shapes of the arguments,
        and whatever else changes their work. `kind` tells the rest.
        """

    def lasting(self, call: CallInfo, arguments: Mapping[str, Any]) -> str | None:
        """A name that is equal, in any process, for calls that may do the same work; None if there is none.

        Work is remembered by it between processes, so it has the versions of what computes.
        """

    def begin(self, seconds: float, parts: Mapping[str, Work]) -> None:
        """Count from now on, in this thread.

        Args:
            seconds: The most that counting may cost. A count that would cost more is given up.
            parts: The parts that an earlier count of such a call found, in this process or another.
        """

    def end(self) -> CallCount:
        """Stop counting. The count since `begin`."""

    def kind(self, outputs: Mapping[str, Any], events: Sequence[Mapping[str, Any]]) -> Hashable:
        """A value that is equal for two calls of one node if they did the same work. Its `repr` says the same in any
        process.

        Args:
            outputs: The call's outputs by port.
            events: The data of the events that the call emitted.
        """


@dataclass(frozen=True)
class MachineLimits:
    """Measured rates of one device of one machine.

    Attributes:
        card: Name of the GPU or the processor.
        torch: Version of torch.
        threads: Threads that torch uses on a CPU; None on a GPU.
        matrix: Operations per second of large matrix products, by dtype; `tf32` is float32 on tensor cores.
        copy: Bytes per second that a large copy in the device's memory reads and writes.
        host_to_device: Bytes per second from pinned host memory; None on a CPU.
        disk: Bytes per second from the disk of the model cache; None if it could not be measured.
        measured: Date of the measurement.
    """

    card: str
    torch: str
    threads: int | None
    matrix: Mapping[str, float]
    copy: float
    host_to_device: float | None
    disk: float | None
    measured: str

    def least_seconds(self, work: Work) -> tuple[str, str | None, float] | None:
        """The limit that work meets first: its kind, its dtype, and the seconds that the work takes at the limit.

        None if there is no limit for the work.
        """
        known = {name: flops / self.matrix[name] for name, flops in work.flops.items() if self.matrix.get(name)}
        matrix, copy = sum(known.values()), work.bytes / self.copy if self.copy else 0.0
        if known and matrix >= copy:
            return "matrix", max(known, key=lambda name: known[name]), matrix
        return ("copy", None, copy) if copy else None

    def ceiling(self, work: Work | None, seconds: float | None) -> dict[str, Any] | None:
        """How near work that took so many seconds came to the limit that it met first, in the form of the record.

        None if that is not known. Tensors that stay in the caches of a processor may move faster than a large copy:
        then the limit is that of the matrix products, if there are any.
        """
        if work is None or not seconds:
            return None
        found = self.least_seconds(work)
        if found is not None and found[0] == "copy" and found[2] > seconds:
            found = self.least_seconds(Work(work.flops))
        if found is None:
            return None
        kind, dtype, least = found
        return {"kind": kind, "dtype": dtype, "fraction": least / seconds}

    def disk_ceiling(self, read: int, seconds: float) -> dict[str, Any] | None:
        """How near a load came to the disk's rate. None if it was faster: the system had the files in memory."""
        if not self.disk or not read or seconds <= 0 or read / self.disk > seconds:
            return None
        return {"kind": "disk", "dtype": None, "fraction": read / self.disk / seconds}
