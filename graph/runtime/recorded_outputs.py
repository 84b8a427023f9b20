"""The output files that a record names. A record is data: files outside of its run's folder are not opened."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any


class UnknownOutput(Exception):
    """An output of a record is no file of its run."""


def output_files(record: Mapping[str, Any], folder: Path, name: str) -> list[Path]:
    """The files of one output, in order; lists in lists are laid flat.

    Args:
        record: The record.
        folder: The folder of the run.
        name: The output's name.

    Raises:
        UnknownOutput: If the record has no such output, a value of it is not a path, the path leads outside of the
            folder, or there is no such file.
    """
    outputs = record.get("outputs")
    if not isinstance(outputs, Mapping) or name not in outputs:
        raise UnknownOutput(f"the run has no output `{name}`")
    return [_file(value, folder, name) for value in flat(outputs[name])]


def _file(value: Any, folder: Path, name: str) -> Path:
    if not isinstance(value, str):
        raise UnknownOutput(f"output `{name}` is no file")
    try:
        path = (folder / value).resolve()
        if not path.is_relative_to(folder.resolve()):
            raise UnknownOutput(f"output `{name}` lies outside of the run's folder")
        if not path.is_file():
            raise UnknownOutput(f"the file of output `{name}` is missing: {folder / value}")
    except (OSError, ValueError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UnknownOutput(f"the file of output `{name}` cannot be opened: {reason}") from None
    return path


def flat(value: Any) -> Iterator[Any]:
    """The entries of a list and of the lists in it; the value itself if it is not a list."""
    if isinstance(value, list):
        for entry in value:
            yield from flat(entry)
    else:
        yield value
