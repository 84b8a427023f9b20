"""Calibration tables: what `sgd calibrate` writes, and whether it was made for what it is used with. Torch-free.

docs/calibration.md describes the file.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError, model_validator

from .gate import Gate

VERSION = 1
TOLERANCE = 0.05  # of timesteps on a training scale of 1000; a scheduler of another shift differs by whole ones
LARGEST = 16 * 2**20  # bytes; a table of 1000 steps and ten components has less than one
BRANCHES = ("positive", "negative", "positive+negative")
AGAIN = "make one for this with `sgd calibrate`"

Row = list[FiniteFloat | None]


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Fit(Part):
    """A fitted polynomial: coefficients, highest order first, and how well it fits."""

    coefficients: list[FiniteFloat] = Field(min_length=1)
    r2: FiniteFloat | None
    rms: FiniteFloat
    points: int
    least: FiniteFloat
    most: FiniteFloat


class Branch(Part):
    """What was measured of a guidance branch: one entry for each step of the component, null where there is none."""

    ratios: Row
    changes: dict[str, Row]


class Component(Part):
    """A transformer of the model: which it was, the timesteps of its own steps, and what was found."""

    class_name: str
    config: str
    weights: str
    dtype: str
    adapters: list[str]
    timesteps: list[FiniteFloat] = Field(min_length=1)
    polynomials: dict[str, Fit]
    branches: dict[str, Branch] = Field(min_length=1)

    @model_validator(mode="after")
    def _one_entry_for_each_step(self) -> Component:
        for branch in self.branches.values():
            if any(len(row) != len(self.timesteps) for row in (branch.ratios, *branch.changes.values())):
                raise ValueError("a list has not one entry for each timestep")
        return self


class Schedule(Part):
    """The noise levels: class, configuration and arguments of the scheduler, and the number of steps of the loop."""

    scheduler: str
    shift: FiniteFloat | None
    steps: int
    config: dict[str, Any]
    arguments: dict[str, Any]


class Prompts(Part):
    """What it was measured with.

    The number of prompts, the SHA-256 of their texts, each followed by a line break (both null where the prompts are
    no input of the workflow), the texts, and how often a component's first step was measured.
    """

    count: int | None
    sha256: str | None
    texts: list[str]
    loops: int


class Source(Part):
    """Where the model came from."""

    source: str
    commit: str | None
    family: str


class Table(Part):
    """The whole file."""

    sgd_table: Literal[1]
    made: dict[str, Any]
    model: Source
    size: list[int]
    schedule: Schedule
    prompts: Prompts
    components: dict[str, Component] = Field(min_length=1)


class TableProblem(Exception):
    """Why a table cannot be used: a sentence for the user, and what to do."""

    def __init__(self, message: str, help: str | None = AGAIN) -> None:
        super().__init__(message)
        self.help = help


@dataclass(frozen=True)
class Use:
    """What a table is used with, each as far as it is known: None where it is not.

    Attributes:
        component: Name of the transformer in the model's repository.
        class_name: Its class.
        config: `digest` of its configuration.
        weights: Fingerprint of its weight files (`models.fingerprint`).
        adapters: Fingerprint and scale of each LoRA on it, in order.
        adapted: Number of these.
        scheduler: Class of the scheduler.
        shift: Its shift, where that does not depend on the size.
        count: Steps of the loop.
        timesteps: Those at which the component is in use.
        branches: The component's steps at which each guidance branch runs; names of a batch are joined by +.
    """

    component: str | None = None
    class_name: str | None = None
    config: str | None = None
    weights: str | None = None
    adapters: tuple[str, ...] | None = None
    adapted: int | None = None
    scheduler: str | None = None
    shift: float | None = None
    count: int | None = None
    timesteps: tuple[float, ...] | None = None
    branches: Mapping[str, Sequence[int]] | None = None


UNKNOWN = Use()

_PUT_ASIDE: ContextVar[bool] = ContextVar("tables_put_aside", default=False)


@contextmanager
def put_aside() -> Iterator[None]:
    """Inside, gates of a workflow are not checked: it is compiled to be measured, maybe to make the table it names."""
    token = _PUT_ASIDE.set(True)
    try:
        yield
    finally:
        _PUT_ASIDE.reset(token)


def are_put_aside() -> bool:
    return _PUT_ASIDE.get()


def problem(path: str | Path | None) -> TableProblem | None:
    """Why there is no table in a file, None if there is one or none is named."""
    try:
        if path is not None and not are_put_aside():
            read(path)
    except TableProblem as found:
        return found
    return None


def read(path: str | Path) -> Table:
    """A table from its file.

    Raises:
        TableProblem: If there is no such file, or it is no table of this version.
    """
    try:
        found = Path(path).stat()
        if found.st_size > LARGEST:
            raise TableProblem(f"{shown(path)} is no table: {found.st_size} bytes")
        return _read(str(path), found.st_mtime_ns, found.st_size)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise TableProblem(f"cannot read the table {shown(path)}: {reason}") from error


@lru_cache(maxsize=16)
def _read(path: str, changed: int, size: int) -> Table:
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise TableProblem(f"{shown(path)} is no table: it is not JSON ({_line(error)})") from error
    version = content.get("sgd_table") if isinstance(content, dict) else None
    if version is None:
        raise TableProblem(f"{shown(path)} is no table: it has no `sgd_table`")
    if version != VERSION:
        raise TableProblem(f"{shown(path)} is a table of version {version!s:.20}, and this sgd reads {VERSION}")
    try:
        return Table.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise TableProblem(f"{shown(path)} is a damaged table: {where}: {first['msg']}") from error


def digest(config: Mapping[str, Any]) -> str:
    """A short digest of a component's configuration, without what libraries note about themselves (`_…`)."""
    own = {key: value for key, value in config.items() if not key.startswith("_")}
    return hashlib.sha256(json.dumps(own, sort_keys=True, default=str).encode()).hexdigest()[:16]


def filled(gate: Gate, use: Use) -> Gate:
    """A gate that names a table, with its polynomial or ratios; unchanged where the component is not known.

    Raises:
        TableProblem: If the table cannot be read, was made for something else, or lacks what the gate needs.
    """
    assert gate.table is not None, "asked for gates with a table only"
    table, name = read(gate.table), shown(gate.table)
    _same_schedule(table, name, use)
    if use.component is None:
        return gate
    component = table.components.get(use.component)
    if component is None:
        raise TableProblem(f"{name} was made for {', '.join(table.components)}, and not for {use.component}")
    _same_model(component, name, use)
    if gate.rule == "polynomial":
        fit = component.polynomials.get(gate.signal)
        if fit is None:
            has = f"it has {', '.join(component.polynomials)}" if component.polynomials else "it has none"
            raise TableProblem(f"{name} has no polynomial for the signal {gate.signal}: {has}")
        return replace(gate, coefficients=tuple(fit.coefficients))
    ratios = {branch: _ratios(component, branch, math.nan) for branch in BRANCHES}
    for branch, steps in (use.branches or {}).items():
        _measured(component, name, branch, steps)
        ratios[branch] = _ratios(component, branch, 1.0)
    return replace(gate, ratios=ratios)


def _same_schedule(table: Table, name: str, use: Use) -> None:
    schedule = table.schedule
    if use.count not in (None, schedule.steps):
        raise TableProblem(f"{name} was made for {schedule.steps} steps, and the loop takes {use.count}")
    if use.scheduler not in (None, schedule.scheduler):
        raise TableProblem(f"{name} was made for {schedule.scheduler}, and this is {use.scheduler}")
    if use.shift is not None and schedule.shift is not None and abs(use.shift - schedule.shift) > 1e-6:
        raise TableProblem(f"{name} was made for a shift of {schedule.shift:g}, and this is one of {use.shift:g}")


def _same_model(component: Component, name: str, use: Use) -> None:
    if use.class_name not in (None, component.class_name):
        raise TableProblem(f"{name} was made for a {component.class_name}, and this is a {use.class_name}")
    if use.config not in (None, component.config):
        raise TableProblem(f"{name} was made for a {component.class_name} of another configuration")
    if use.weights not in (None, component.weights):
        raise TableProblem(f"{name} was made for other weights of {use.component}")
    adapted = len(use.adapters) if use.adapters is not None else use.adapted
    if adapted not in (None, len(component.adapters)):
        raise TableProblem(f"{name} was made with {len(component.adapters)} LoRAs, and the model has {adapted}")
    if use.adapters is not None and list(use.adapters) != component.adapters:
        raise TableProblem(f"{name} was made with other LoRAs, or at another scale")
    own = component.timesteps
    if use.timesteps is not None and len(use.timesteps) != len(own):
        message = f"{name} was made for {len(own)} steps of {use.component}, and it takes {len(use.timesteps)}"
        raise TableProblem(message)
    for step, (mine, theirs) in enumerate(zip(own, use.timesteps or own, strict=True)):
        if abs(mine - theirs) > TOLERANCE:
            raise TableProblem(f"{name} was made for other timesteps: step {step} is at {mine:g}, and here {theirs:g}")


def _measured(component: Component, name: str, branch: str, steps: Sequence[int]) -> None:
    """See that there is a ratio wherever a branch runs after its first step."""
    for part in branch.split("+"):
        if part not in component.branches:
            raise TableProblem(f"{name} has no ratios for the branch {part}: it was made without it")
        missing = [step for step in steps[1:] if component.branches[part].ratios[step] is None]
        if missing:
            raise TableProblem(f"{name} has no ratio for step {missing[0]} of the branch {part}: it did not run then")


def _ratios(component: Component, branch: str, otherwise: float) -> tuple[float, ...]:
    """The ratios of a branch; of branches in one batch the mean, as each has as many tokens.

    `otherwise` stands for what was not measured: 1 where a step is passed over, as the next ratio counts from the last
    step that ran; NaN, which computes, for branches that were not to be expected.
    """
    rows = []
    for part in branch.split("+"):
        known = component.branches.get(part)
        row = known.ratios if known is not None else [None] * len(component.timesteps)
        rows.append([otherwise if ratio is None else ratio for ratio in row])
    return tuple(sum(entries) / len(entries) for entries in zip(*rows, strict=True))


def shown(path: str | Path) -> str:
    """A path as people wrote it: from the current folder, where it lies below."""
    here = os.path.relpath(path)
    return str(path) if here.startswith("..") else here


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:120]
