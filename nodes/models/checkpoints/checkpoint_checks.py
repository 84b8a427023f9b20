"""Checks of the checkpoints that a workflow names, from their headers and the model's configurations. Torch-free."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from ....graph.contract.diagnostics import Diagnostic
from ....graph.contract.errors import NodeError
from ..repository.repository import Repository
from . import checkpoint_header, checkpoint_source, component_layouts
from .checkpoint_match import match
from .checkpoint_source import Checkpoint


def problems(repository: Repository | None, sources: Mapping[str, str]) -> Iterator[Diagnostic]:
    """The problems of checkpoints, as far as the files and the model's configurations are on this disk.

    Args:
        repository: The model; None if it is not known.
        sources: The files by component.
    """
    for part, source in sources.items():
        try:
            found = checkpoint_source.find(source)
            if repository is not None:
                repository.entry(part)
            if found.file is not None:
                yield from problems_of_file(repository, part, found)
        except NodeError as error:
            yield replace(error.diagnostic, place=part)


def problems_of_file(repository: Repository | None, part: str, checkpoint: Checkpoint) -> Iterator[Diagnostic]:
    """The problems of one file that is on this disk.

    Raises:
        NodeError: If its header cannot be read.
    """
    assert checkpoint.file is not None, "the file is on this disk"
    header = checkpoint_header.read(checkpoint.file)
    if repository is None or repository.config_file(part) is None:
        return
    layout = component_layouts.of_config(repository.entry(part)[1], repository.config(part))
    if layout is not None:
        yield from match(header, layout, part).problems


def describe(checkpoint: Checkpoint) -> dict[str, Any]:
    """Facts about a checkpoint for the record: its file and format, and the number of tensors of each dtype."""
    if checkpoint.file is None:
        return {"file": checkpoint.source}
    header = checkpoint_header.read(checkpoint.file)
    commit = {} if checkpoint.commit is None else {"commit": checkpoint.commit}
    name = checkpoint.file.name if checkpoint.commit is None else checkpoint.source
    return {"file": name, **commit, "format": header.format, "dtypes": header.dtypes()}
