"""The passes that rewrite a checked graph, in their order: one tuple, `PASSES`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from .ir import Graph, Ref
from .passes.hoist import hoist
from .passes.merge import merge
from .passes.order import order
from .passes.parts import components, parts
from .passes.prune import prune

Needs = Mapping[str, set[tuple[Ref, str]]]


@dataclass
class PassState:
    """Values that passes share beside the graph.

    Attributes:
        known: Facts of outputs.
        roots: Paths of the calls to keep, with everything they need; empty for the whole file.
        needs: For each call, the components that it needs in memory. The pass `order` finds them.
    """

    known: Mapping[Ref, Any] = field(default_factory=dict)
    roots: Collection[str] = ()
    needs: Needs = field(default_factory=dict)


@dataclass(frozen=True)
class Pass:
    """One pass, and its guarantee.

    Attributes:
        name: Its name, for `sgd plan --after` and for a broken invariant.
        function: Takes the graph and the shared state, and returns the new graph.
        guarantee: One sentence that is true of the graph after the pass.
        ordered: Whether each item stands behind the items that it reads, after the pass.
    """

    name: str
    function: Callable[[Graph, PassState], Graph]
    guarantee: str
    ordered: bool = False


def _order(graph: Graph, state: PassState) -> Graph:
    state.needs = components(graph, state.known)
    return order(graph, state.needs)


PASSES = (
    Pass("prune", lambda graph, state: prune(graph, state.roots), "Every node leads to an output or an effect."),
    Pass("parts", lambda graph, state: parts(graph, state.known), "Every output knows which of its parts are read."),
    Pass("hoist", lambda graph, _: hoist(graph), "A loop's body holds only nodes that can change from turn to turn."),
    Pass("merge", lambda graph, _: merge(graph), "No two pure nodes of one level are equal."),
    Pass("order", _order, "Each node stands behind the nodes that it reads.", ordered=True),
)
