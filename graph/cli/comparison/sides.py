"""The two things of `sgd diff`: each is a workflow, a run, or a picture or clip."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from ...contract.errors import UnreadableFile
from ...contract.json_reader import read_json
from ..report.run_record import LARGEST_RECORD

Kind = Literal["workflow", "run", "media"]
HEAD = 4096
"""Bytes of a file that tell text from other data."""


def kind_of_side(name: str) -> Kind:
    """A thing that a word of the command line names.

    A folder is that of a run, and so is a JSON file with the key `record`. A file with bytes that no text has is a
    picture or a clip. Everything else is a workflow: a file, or the name of a bundled one.
    """
    path = Path(name)
    try:
        if path.is_dir():
            return "run"
        if not path.is_file():
            return "workflow"
        if path.suffix.lower() == ".json":
            return "run" if _is_record(path) else "workflow"
        with path.open("rb") as file:
            return "media" if _is_binary(file.read(HEAD)) else "workflow"
    except (OSError, ValueError):
        return "workflow"  # whose check tells why it cannot be opened


def _is_record(path: Path) -> bool:
    try:
        found = read_json(path, most=LARGEST_RECORD)
    except UnreadableFile:
        return False
    return isinstance(found, Mapping) and "record" in found


def _is_binary(head: bytes) -> bool:
    if b"\0" in head:
        return True
    try:
        head.decode("utf-8")
    except UnicodeDecodeError as error:
        return error.start < len(head) - 4  # the last character may be cut
    return False
