"""The result of a run, for the caller of `sgd.run`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Result:
    """The result of a run.

    Attributes:
        status: `done`, `failed` or `interrupted`.
        outputs: The workflow's outputs by name; empty unless done.
        record: The content of `run.json`.
        folder: The output folder.
        error: The error of a failed run, else None.
        stuck: True if the worker was still inside a node when the run ended. The folder stays locked until it leaves.
        record_problem: The reason why there is no `run.json`; None if there is one.
        resumable: Whether `sgd resume` can go on with the run.
        late_warnings: Warnings of other processes, which came after the end of the observers. The record has them too.
    """

    status: str
    outputs: Mapping[str, Any]
    record: Mapping[str, Any]
    folder: Path
    error: BaseException | None = None
    stuck: bool = False
    written: list[Path] = field(default_factory=list)
    record_problem: str | None = None
    resumable: bool = False
    late_warnings: list[str] = field(default_factory=list)
