"""Folders of workflows: those that come with sgd, and those of installed libraries."""

from __future__ import annotations

import importlib
import importlib.util
from importlib.metadata import entry_points
from pathlib import Path

NODES_GROUP = "sgd.nodes"
WORKFLOWS_GROUP = "sgd.workflows"


def workflow_folder(library: str) -> Path | None:
    """The folder of workflows that an installed library offers (entry point group `sgd.workflows`)."""
    for point in entry_points(group=WORKFLOWS_GROUP, name=library):
        spec = importlib.util.find_spec(point.value)
        if spec is not None and spec.submodule_search_locations:
            return Path(next(iter(spec.submodule_search_locations)))
    return None


def bundled_workflows() -> Path:
    """The folder of the bundled workflows."""
    spec = importlib.util.find_spec("sgd.workflows")
    assert spec is not None
    assert spec.submodule_search_locations
    return Path(next(iter(spec.submodule_search_locations)))
