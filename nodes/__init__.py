"""The standard node library. All code about diffusion is here.

The library imports `graph/contract/` and no other package of `graph/`. Workflow files, the compiler and the command
line belong to `graph/`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .library.standard_library import StandardLibrary

if TYPE_CHECKING:
    from ..graph.contract.diagnostics import Diagnostic
    from ..graph.contract.errors import NodeError
    from ..graph.contract.facts import UNKNOWN, Facts, NodeFacts, Unknown, require
    from ..graph.contract.library_command import LibraryCommand, RunOption
    from ..graph.contract.node import Passes, Reads, Run, Shares, State, node
    from ..graph.contract.node_library import NodeLibrary

standard_library = StandardLibrary()

__all__ = [
    "UNKNOWN",
    "Diagnostic",
    "Facts",
    "LibraryCommand",
    "NodeError",
    "NodeFacts",
    "NodeLibrary",
    "Passes",
    "Reads",
    "Run",
    "RunOption",
    "Shares",
    "State",
    "Unknown",
    "node",
    "require",
    "standard_library",
]

_HOMES = {
    "Diagnostic": "diagnostics",
    "NodeError": "errors",
    "UNKNOWN": "facts",
    "Facts": "facts",
    "NodeFacts": "facts",
    "Unknown": "facts",
    "require": "facts",
    "LibraryCommand": "library_command",
    "RunOption": "library_command",
    "NodeLibrary": "node_library",
}


def __getattr__(name: str) -> Any:
    """Import a name of the contract when it is first used, so that the command line starts at once."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"sgd.graph.contract.{_HOMES.get(name, 'node')}"), name)
