"""The results of `speed.py`, in a file that is written after each row, so that another process can go on."""

from __future__ import annotations

import json
import os
import statistics
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.machine import Machine


@dataclass(frozen=True)
class Kernel:
    """All calls of one kernel in one step or decode."""

    name: str
    calls: int
    seconds: float


@dataclass
class Way:
    """One way to do the work of a row.

    Attributes:
        seconds: Of each call that was timed.
        first: Seconds of the first call, with everything that is compiled or chosen in it.
        peak: Bytes of weights and of the working memory of a call.
        error: Relative difference from diffusers' eager path.
        state: Clock, power and temperature of the card while it was timed.
        details: Choices that the run reports, such as `attention`.
        kernels: The kernels of one call, if they were asked for.
        failed: The reason why the way has no times; empty if it has.
    """

    seconds: list[float] = field(default_factory=list)
    first: float = 0.0
    peak: int = 0
    error: float = 0.0
    state: str = ""
    details: dict[str, str] = field(default_factory=dict)
    kernels: list[Kernel] = field(default_factory=list)
    failed: str = ""

    @property
    def median(self) -> float | None:
        """The median of the seconds; None if there are none."""
        return statistics.median(self.seconds) if self.seconds else None


@dataclass
class Measured:
    """The result of one row.

    Attributes:
        machine: Where it was measured.
        date: The day.
        ways: By name; `diffusers` is diffusers at its best, `eager` its plain path.
        errors: Relative errors against float32, by way.
        notes: Sentences for the table.
        failed: The reason why the row has no result; empty if it has.
    """

    machine: Machine
    date: str
    ways: dict[str, Way] = field(default_factory=dict)
    errors: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    failed: str = ""


class Results:
    """The file of all rows."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: dict[str, Measured] = {}
        if path.exists():
            self.rows = {name: read(found) for name, found in json.loads(path.read_text()).items()}

    def put(self, name: str, found: Measured) -> None:
        """Keep a row, and write the file."""
        self.rows[name] = found
        beside = self.path.with_suffix(".new")
        beside.write_text(json.dumps({name: asdict(each) for name, each in self.rows.items()}, indent=1))
        os.replace(beside, self.path)


def read(found: dict[str, Any]) -> Measured:
    """A result from its JSON."""
    ways = {
        name: Way(**each | {"kernels": [Kernel(**kernel) for kernel in each["kernels"]]})
        for name, each in found["ways"].items()
    }
    return Measured(**found | {"machine": Machine(**found["machine"]), "ways": ways})
