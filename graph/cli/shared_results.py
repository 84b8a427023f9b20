"""Results that the runs of one command share: those of nodes that no loop comes before."""

from __future__ import annotations

from collections.abc import Collection

from ..compiler.ir import Ref, edges
from ..compiler.plan import CallStep, LoopStep, Plan
from ..resume.snapshot_file import Snapshot
from ..store.entries import MemoryStore


class SharedResults(MemoryStore):
    """A store in memory that keeps the results of some calls, and of no loop.

    Attributes:
        calls: Paths of the calls whose results are kept.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls: Collection[str] = ()

    def write(self, key: str, entry: Snapshot) -> None:
        if entry.content["node"] in self.calls:
            super().write(key, entry)


def before_loops(plan: Plan) -> set[str]:
    """Paths of the calls outside of loops that read nothing that a loop has made."""
    found, after = set[str](), set[str]()
    for step in plan.steps:
        if isinstance(step, LoopStep):
            after.add(step.loop.id)
        elif isinstance(step, CallStep):
            read = {leaf.node for leaf in edges(step.call.sources) if isinstance(leaf, Ref)}
            (after if read & after else found).add(step.call.id)
    return found
