"""The standard node library: everything that sgd knows about diffusion.

It imports `graph/contract/` and nothing else of `graph/`. Workflow files, the compiler and the command line belong to
`graph/`.
"""

from __future__ import annotations

from ..graph.contract.diagnostics import Diagnostic
from ..graph.contract.errors import NodeError
from ..graph.contract.facts import UNKNOWN, Facts, NodeFacts, Unknown, require
from ..graph.contract.node import Passes, Reads, Run, Shares, State, node
from ..graph.contract.node_library import NodeLibrary
from .library.standard_library import StandardLibrary

standard_library = StandardLibrary()

__all__ = [
    "UNKNOWN",
    "Diagnostic",
    "Facts",
    "NodeError",
    "NodeFacts",
    "NodeLibrary",
    "Passes",
    "Reads",
    "Run",
    "Shares",
    "State",
    "Unknown",
    "node",
    "require",
    "standard_library",
]
