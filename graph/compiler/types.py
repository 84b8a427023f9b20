"""Types of sources: the type of the value on each edge of a resolved graph without cycles."""

from __future__ import annotations

import networkx as nx

from ..contract.ports import INT, STR, UNKNOWN, Type, accepts, join, list_of, show
from ..language.literals import literal_type
from .ir import (
    Call,
    Const,
    Format,
    Graph,
    Index,
    Input,
    Item,
    Items,
    Loop,
    Ref,
    Source,
    Var,
    dependencies,
    output_ports,
)


class Types:
    """The type of any source of a graph; `unknown` if it is not known."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.items: dict[str, Item] = {item.id: item for item, _ in graph.walk()}
        self._of: dict[Source, Type] = {}
        self._active: set[Source] = set()
        self._orders: dict[int, nx.DiGraph[str]] = {}
        self.suggestions = 0
        self._fill(graph)

    def order(self, level: Graph) -> nx.DiGraph[str]:
        """The dependencies of one level of the graph."""
        if id(level) not in self._orders:
            self._orders[id(level)] = dependencies(level)
        return self._orders[id(level)]

    def _fill(self, level: Graph) -> None:
        """Find all types in the order of execution, so that no lookup recurses down a long chain of nodes."""
        order = self.order(level)
        if not nx.is_directed_acyclic_graph(order):
            return
        for name in nx.topological_sort(order):
            item = level.items[name]
            if isinstance(item, Loop):
                for variable in (*item.over, *item.carry):
                    self.of(Var(name, variable))
                self._fill(item.body)
            for port in output_ports(item):
                self.of(Ref(name, port))

    def text(self, source: Source) -> str:
        """A source as text, if its text in the file is not known."""
        if isinstance(source, Const):
            return show(source.value)
        if isinstance(source, Ref):
            return f"${source.node.rsplit('.', 1)[-1]}"
        return f"${source.name}" if isinstance(source, Input | Var) else "it"

    def of(self, source: Source) -> Type:
        """The type of a source."""
        if isinstance(source, Const):
            return literal_type(source.value)
        if isinstance(source, Format):
            return STR
        if isinstance(source, Index):
            return INT
        if isinstance(source, Items):
            return list_of(join(map(self.of, source.items)))
        if isinstance(source, Input):
            declared = self.graph.inputs.get(source.name)
            return declared.type if declared is not None else UNKNOWN
        if source not in self._of:
            if source in self._active:
                return UNKNOWN
            self._active.add(source)
            self._of[source] = self._ref(source) if isinstance(source, Ref) else self._var(source)
            self._active.discard(source)
        return self._of[source]

    def _var(self, var: Var) -> Type:
        loop = self.items.get(var.loop)
        if not isinstance(loop, Loop):
            return UNKNOWN
        if var.name in loop.carry:
            return self.of(loop.carry[var.name].source)
        arg = loop.over.get(var.name)
        return (arg and self.of(arg.source).element) or UNKNOWN

    def _ref(self, ref: Ref) -> Type:
        item = self.items.get(ref.node)
        if isinstance(item, Loop):
            if item.carry:
                arg = item.carry.get(ref.port)
                return self.of(arg.source) if arg is not None else UNKNOWN
            arg = item.body.outputs.get(ref.port)
            return list_of(self.of(arg.source)) if arg is not None else UNKNOWN
        if item is None:
            return UNKNOWN
        output = item.type.output(ref.port)
        if output is None:
            return UNKNOWN
        return bind(output.type, self.variables(item))

    def variables(self, call: Call) -> dict[str, Type]:
        """The types of the type variables in a call's signature."""
        bound: dict[str, Type] = {}
        for name, parameter in call.type.inputs.items():
            arg = call.args.get(name)
            if arg is not None and (parameter.type.kind == "var" or parameter.type.kind == "list"):
                accepts(parameter.type, self.of(arg.source), bound)
        return bound


def bind(type: Type, bound: dict[str, Type]) -> Type:
    """`type` with its type variables replaced."""
    if type.kind == "var":
        return bound.get(type.name, UNKNOWN)
    return list_of(bind(type.item, bound)) if type.kind == "list" and type.item else type
