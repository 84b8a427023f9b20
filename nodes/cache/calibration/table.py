"""Calibration tables: the file that `sgd calibrate` writes. Torch-free.

docs/calibration.md describes the file.
"""

from __future__ import annotations

import hashlib
import json
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError, model_validator

from ....graph.contract.diagnostics import Diagnostic
from ....graph.contract.errors import NodeError, UnreadableFile
from ....graph.contract.json_reader import read_json
from ...support.input_files import shown

VERSION = 1
LARGEST = 16 * 2**20  # bytes; a table of 1000 steps and ten components has less than one MiB
AGAIN = "make a table for this model and schedule with `sgd calibrate`"

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
    """Measurements of a guidance branch: for each step of the component an entry, null if the step was not measured."""

    ratios: Row
    changes: dict[str, Row]


class Identity(Part):
    """The identity of a transformer: class, digests of its configuration and weights, dtype, LoRAs and their scales."""

    class_name: str
    config: str
    weights: str
    dtype: str
    adapters: list[str]


class Component(Identity):
    """A transformer of the model, the timesteps at which it is in use, and its measurements."""

    timesteps: list[FiniteFloat] = Field(min_length=1)
    polynomials: dict[str, Fit]
    branches: dict[str, Branch] = Field(min_length=1)

    @model_validator(mode="after")
    def _one_entry_for_each_step(self) -> Component:
        for branch in self.branches.values():
            if any(len(row) != len(self.timesteps) for row in (branch.ratios, *branch.changes.values())):
                raise ValueError("a list does not have one entry for each timestep")
        return self


class Schedule(Part):
    """The noise levels: class, configuration and arguments of the scheduler, and the number of steps of the loop."""

    scheduler: str
    shift: FiniteFloat | None
    steps: int
    config: dict[str, Any]
    arguments: dict[str, Any]


class Prompts(Part):
    """The texts of the measurement.

    `count` is the number of prompts, and `sha256` the SHA-256 of their texts, each followed by a line break. Both are
    null if the prompts are not an input of the workflow. `loops` is the number of measurements of a component's first
    step.
    """

    count: int | None
    sha256: str | None
    texts: list[str]
    loops: int


class Source(Part):
    """The source of the model."""

    source: str
    commit: str | None
    family: str


class Table(Part):
    """The content of the table's file."""

    sgd_table: Literal[1]
    made: dict[str, Any]
    model: Source
    size: list[int]
    schedule: Schedule
    prompts: Prompts
    components: dict[str, Component] = Field(min_length=1)


def unusable(message: str, help: str | None = AGAIN) -> NodeError:
    """The error for a table that does not fit the model or the schedule."""
    return NodeError(Diagnostic("bad-value", message, "table", help=help))


_PUT_ASIDE: ContextVar[bool] = ContextVar("tables_put_aside", default=False)


@contextmanager
def put_aside() -> Iterator[None]:
    """Do not check gates inside `with`: `sgd calibrate` compiles a workflow that may name the table it will write."""
    token = _PUT_ASIDE.set(True)
    try:
        yield
    finally:
        _PUT_ASIDE.reset(token)


def are_put_aside() -> bool:
    return _PUT_ASIDE.get()


def read(path: str | Path) -> Table:
    """Read a table from its file.

    Raises:
        NodeError: If there is no such file, or the file does not hold a table of this version.
    """
    return read_table(path, "sgd_table", Table)


def problem(path: str | Path | None, reader: Callable[[str | Path], object] = read) -> Diagnostic | None:
    """Check the file of a table. Returns the problem; None if the file holds a table, or no file is named."""
    try:
        if path is not None and not are_put_aside():
            reader(path)
    except NodeError as error:
        return error.diagnostic
    return None


M = TypeVar("M", bound=BaseModel)


def read_table(path: str | Path, key: str, model: type[M], help: str = AGAIN) -> M:
    """Read a table of one kind from its file.

    Args:
        path: The file.
        key: The entry that holds the version, and tells this kind of table from others.
        model: The content.
        help: How to make another table.

    Raises:
        NodeError: If there is no such file, or the file does not hold a table of this kind and version.
    """
    try:
        found = Path(path).stat()
        if stat.S_ISDIR(found.st_mode):
            raise unusable(f"cannot read the table {shown(path)}: it is a folder", help)
        if not stat.S_ISREG(found.st_mode):
            # A device or a pipe may never end.
            raise unusable(f"{shown(path)} is not a table: the path is not a regular file", help)
        if found.st_size > LARGEST:
            raise unusable(f"{shown(path)} is not a table: {found.st_size} bytes", help)
        made: M = _read(str(path), found.st_mtime_ns, found.st_size, key, model, help)
        return made
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise unusable(f"cannot read the table {shown(path)}: {reason}", help) from error


@lru_cache(maxsize=16)
def _read(path: str, changed: int, size: int, key: str, model: type[Any], help: str) -> Any:
    try:
        content = read_json(Path(path), shown(path), LARGEST)
    except UnreadableFile as error:
        raise unusable(f"{shown(path)} is not a table: it is not JSON: {error}", help) from error
    version = content.get(key) if isinstance(content, dict) else None
    if version is None:
        raise unusable(f"{shown(path)} is not a table: the file has no `{key}`", help)
    if version != VERSION:
        raise unusable(f"{shown(path)} is a table of version {version!s:.20}, and this sgd reads {VERSION}", help)
    try:
        return model.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise unusable(f"{shown(path)} is a damaged table: {where}: {first['msg']}", help) from error


def digest(config: Mapping[str, Any]) -> str:
    """A short digest of a component's configuration, without the libraries' own entries (`_…`)."""
    own = {key: value for key, value in config.items() if not key.startswith("_")}
    return hashlib.sha256(json.dumps(own, sort_keys=True, default=str).encode()).hexdigest()[:16]
