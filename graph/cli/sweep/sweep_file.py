"""`sweep.json`: the sweep that a folder holds. It marks the folder, and says everything that going on needs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from ...compiler.frontend.workflow_path import find_workflow
from ...contract.constants import LARGEST_RECORD
from ...contract.errors import UnreadableFile
from ...contract.json_reader import read_json
from ...contract.output_files import replace_text, unwritable
from ...contract.text_tables import shortened
from .combinations import Combination, combinations
from .variations import Fixed, Variation

SWEEP = "sweep.json"
VERSION = 1
MARK = "sweep"
"""The key that makes a JSON file one of a sweep; its value is the version."""


@dataclass(frozen=True)
class Sweep:
    """A sweep as it was asked for.

    Attributes:
        file: The workflow, as the user named it.
        sha256: The hash of its bytes.
        base: The folder that the sweep was started in. Paths are relative to it.
        varied: The varied names with their values.
        reference: The values of the runs that the others are compared with; empty without a reference.
        inputs: Values of other inputs, as text.
        settings: Values of other parameters, as text.
        libraries: Python files with node types.
        device: The device, as it was asked for.
        options: Values of the options that libraries add.
        metadata: Whether outputs carry their recipe.
        output: The output that is compared; None for all.
        jobs: Processes that run at once.
        store: The value of `--store`; None if it was not given.
        files: The files that its workflow uses and reads, as they were when it began.
        versions: The versions of the packages that computed then.
        code: The hashes of the Python code of its node types then, by package or file.
        ray: Whether its runs are dealt to the workers of a Ray cluster.
        ray_address: The cluster; None for one that is started on this machine.
    """

    file: str
    sha256: str
    base: str
    varied: tuple[Variation, ...]
    reference: tuple[Fixed, ...] = ()
    inputs: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, str] = field(default_factory=dict)
    libraries: tuple[str, ...] = ()
    device: str = "auto"
    options: Mapping[str, Any] = field(default_factory=dict)
    metadata: bool = True
    output: str | None = None
    jobs: int = 1
    store: str | None = None
    files: tuple[Mapping[str, Any], ...] = ()
    versions: Mapping[str, str | None] = field(default_factory=dict)
    code: Mapping[str, str] = field(default_factory=dict)
    ray: bool = False
    ray_address: str | None = None

    @property
    def combinations(self) -> Sequence[Combination]:
        """All its combinations, in the order of their numbers."""
        return combinations(self.varied)

    @property
    def name(self) -> str:
        """The name of the workflow's file without its extension."""
        return Path(self.file).stem


def hash_of(file: str) -> str:
    """The hash of a workflow's file; empty if it cannot be read, which its check reports."""
    try:
        path = Path(file)
        path = path / "run.json" if path.is_dir() else path if path.exists() else find_workflow(file)[0]
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except Exception:
        return ""


def write_sweep(sweep: Sweep, folder: Path) -> None:
    """Write the file of a sweep.

    Raises:
        NodeError: If it cannot be written.
    """
    try:
        replace_text(folder / SWEEP, json.dumps({MARK: VERSION, **asdict(sweep)}, indent=1) + "\n")
    except OSError as error:
        raise unwritable(folder / SWEEP, error, "choose another --out") from error


def is_sweep(folder: Path) -> bool:
    """Whether a folder is that of a sweep, for `sgd resume`."""
    return (folder / SWEEP).is_file()


def read_sweep(folder: Path) -> Sweep:
    """Read the sweep of a folder.

    Raises:
        UnreadableFile: If there is none, or it is of another version.
    """
    path = folder / SWEEP
    name = shortened(path)
    if not path.is_file():
        raise UnreadableFile(f"{name} does not exist", help="name the folder of a sweep")
    plain = read_json(path, name, most=LARGEST_RECORD)
    if not isinstance(plain, dict) or plain.get(MARK) != VERSION:
        raise UnreadableFile(f"{name} is no sweep of this version of sgd", help="use the sgd that made it")
    try:
        return TypeAdapter(Sweep).validate_python({key: value for key, value in plain.items() if key != MARK})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise UnreadableFile(f"{name} is damaged: `{place}`: {first['msg']}", help="make the sweep again") from error
