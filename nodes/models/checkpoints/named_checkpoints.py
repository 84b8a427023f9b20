"""The checkpoints that a `model.load` names: found, downloaded, checked, and described in plan and record."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ....graph.contract.errors import NodeError
from ....graph.contract.node import Run
from ..repository import fingerprint
from ..repository.repository import Repository
from . import checkpoint_source
from .checkpoint_checks import describe, problems_of_file
from .checkpoint_source import Checkpoint


def find_all(sources: Mapping[str, str], repository: Repository, run: Run) -> dict[str, Checkpoint]:
    """The checkpoint of each component.

    Args:
        sources: Files by component.
        repository: The model.
        run: Receives warnings, and facts for the plan and the record.

    Raises:
        NodeError: If one is missing, damaged, or does not fit its component.
    """
    found = {part: _checkpoint(part, source, repository, run) for part, source in sources.items()}
    run.detail(checkpoints={part: _facts(each, run) for part, each in found.items()})
    return found


def _checkpoint(part: str, source: str, repository: Repository, run: Run) -> Checkpoint:
    """The checkpoint of a component, downloaded if the run needs it, and checked against the component.

    Raises:
        NodeError: If it is missing, damaged, or does not fit.
    """
    repository.entry(part)
    found = checkpoint_source.find(source)
    if not run.planning and run.options.get("weights") != "dummy":
        found = checkpoint_source.bring(found, run)
    if found.file is None:
        return found
    for problem in problems_of_file(repository, part, found):
        if problem.severity == "error":
            raise NodeError(problem)
        run.warn(problem.message)
    return found


def _facts(checkpoint: Checkpoint, run: Run) -> dict[str, Any]:
    """The facts about a checkpoint that the plan and the record hold."""
    facts = describe(checkpoint)
    if checkpoint.file is not None and not run.planning:
        facts["fingerprint"] = fingerprint.of_files([checkpoint.file])
    return facts
