"""The record of a run as the report reads it.

Every key that a version of sgd adds later may be missing. Keys that are there have the type of `docs/run.schema.json`;
a record with another type is not read, so that no part of the report needs to check again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, Field, ValidationError, model_validator

from ...contract.constants import LARGEST_RECORD
from ...contract.errors import UnreadableFile
from ...contract.json_reader import read_json
from ...contract.processes import Mesh
from ...contract.record_version import check_version
from ...contract.text_tables import shortened
from ...runtime.context import RECORD
from ..history.killed_run import error_without_record

HELP = "name the folder of a run, or its run.json"


class Workflow(BaseModel):
    """The file that ran."""

    name: str
    file: str | None = None
    sha256: str = ""


class Ceiling(BaseModel):
    """The limit of the machine that a node came nearest to, and the reached share of it."""

    kind: str
    dtype: str | None = None
    fraction: float


def _number(value: Any) -> Any:
    """0 in place of null, which `--profile off` writes for times; `RunRecord.warnings` says so."""
    return 0.0 if value is None else value


def _numbers(values: Any) -> Any:
    return {name: _number(value) for name, value in values.items()} if isinstance(values, dict) else values


Seconds = Annotated[float, BeforeValidator(_number)]
Measured = Annotated[dict[str, float], BeforeValidator(_numbers)]


class NodeRow(BaseModel):
    """The row of a node, loop or composite; a name in brackets is time outside nodes."""

    name: str
    type: str = ""
    calls: int = 0
    seconds: Seconds = 0.0
    device_seconds: float | None = None
    share: Seconds = 0.0
    peak_bytes: float | None = None
    uncounted: bool = False
    flops: float | None = None
    bytes: float | None = None
    ceiling: Ceiling | None = None
    reused: bool = False
    interrupted: bool = False
    resumed_calls: int = 0
    detail: dict[str, Any] = Field(default_factory=dict)
    outputs: list[dict[str, Any]] = Field(default_factory=list)

    @property
    def is_node(self) -> bool:
        return not self.name.startswith("(")


class Edge(BaseModel):
    """An edge of the file."""

    source: str = Field(alias="from")
    target: str = Field(alias="to")


class StepRow(BaseModel):
    """A finished turn of a loop."""

    loop: str
    turn: int
    seconds: float
    device_seconds: float | None = None
    start: float | None = None
    step: int | None = None
    sigma: float | None = None
    reused: bool = False


class Stretch(BaseModel):
    """A stretch of the timeline, in seconds from the start of the run."""

    name: str
    kind: str = "node"
    start: float
    seconds: float
    step: int | None = None
    calls: int = 1


class MemoryPoint(BaseModel):
    """Memory at one time."""

    seconds: float
    bytes: float


class KernelRow(BaseModel):
    """A kernel of the device, summed under the node that launched it."""

    rank: int | None = None
    node: str = ""
    name: str
    calls: int = 0
    device_seconds: float | None = None
    seconds: float | None = None


class ProcessNode(BaseModel):
    """A node in one process."""

    name: str
    calls: int = 0
    seconds: float = 0.0


class ProcessRow(BaseModel):
    """One of several processes."""

    rank: int = Field(ge=0)
    seconds: float = 0.0
    waited_seconds: float = 0.0
    exchanged_bytes: int = 0
    peak_bytes: int | None = None
    nodes: list[ProcessNode] = Field(default_factory=list)


class Arrangement(BaseModel):
    """How the processes were arranged."""

    branches: int = Field(1, ge=1)
    ulysses: int = Field(1, ge=1)
    ring: int = Field(1, ge=1)

    @property
    def mesh(self) -> Mesh:
        return Mesh(self.branches, self.ulysses, self.ring)


class RunRecord(BaseModel):
    """`run.json`."""

    sgd: str
    workflow: Workflow
    inputs: dict[str, Any] = Field(default_factory=dict)
    set: dict[str, Any] = Field(default_factory=dict)
    environment: dict[str, Any] = Field(default_factory=dict)
    options: dict[str, Any] = Field(default_factory=dict)
    status: str
    error: str | None = None
    seconds: float
    phases: Measured = Field(default_factory=dict)
    unaccounted_seconds: float | None = None
    peak_bytes: float | None = None
    nodes: list[NodeRow] = Field(default_factory=list)
    edges: list[Edge] = Field(default_factory=list)
    steps: list[StepRow] = Field(default_factory=list)
    outputs: dict[str, Any] = Field(default_factory=dict)
    warnings: list[str] = Field(default_factory=list)
    timeline: list[Stretch] = Field(default_factory=list)
    memory: list[MemoryPoint] = Field(default_factory=list)
    kernels: list[KernelRow] = Field(default_factory=list)
    parallel: Arrangement | None = None
    processes: list[ProcessRow] = Field(default_factory=list)

    @model_validator(mode="after")
    def _tell_of_no_times(self) -> RunRecord:
        if self.options.get("profile") == "off":
            self.warnings.append("the run measured no times of nodes (--profile off): all are 0 here")
        return self


@dataclass(frozen=True)
class RecordedRun:
    """A run that has been: its record, also as plain data, and its folder."""

    record: RunRecord
    plain: Mapping[str, Any]
    folder: Path
    name: str


def read_run(run: str) -> RecordedRun:
    """Read the record of a run.

    Args:
        run: The folder of the run, or its `run.json`.

    Raises:
        UnreadableFile: If there is no record, or it cannot be read, is of another version, or is none.
    """
    path = Path(run)
    try:
        if path.is_dir():
            path = path / RECORD
            if not path.exists():
                raise error_without_record(run) or UnreadableFile(f"{shortened(run)} has no {RECORD}", help=HELP)
        elif not path.exists():
            raise UnreadableFile(f"{shortened(run)} does not exist", help=HELP)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UnreadableFile(f"cannot read {shortened(run)}: {reason}", help=HELP) from error
    name = shortened(path)
    try:
        plain = read_json(path, name, most=LARGEST_RECORD)
    except UnreadableFile:
        if path.suffix == ".json":
            raise
        beside = f"name the folder of its run: {shortened(path.parent)}" if (path.parent / RECORD).is_file() else HELP
        raise UnreadableFile(f"{name} is not the record of a run", help=beside) from None
    if not isinstance(plain, dict) or not {"sgd", "record", "status", "nodes"} <= plain.keys():
        raise UnreadableFile(f"{name} is not the record of a run", help=HELP)
    check_version(plain, name)
    try:
        record = RunRecord.model_validate(plain)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"]).lstrip(".")
        raise UnreadableFile(f"{name} is not the record of a run: `{place}`: {first['msg']}", help=HELP) from error
    return RecordedRun(record, plain, path.parent, path.parent.resolve().name)
