"""parts: find, for each output, the parts of its value that other nodes read.

A node then does not compute a part that nothing reads, and only components that a node reads are loaded.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import replace
from typing import Any

from ...contract.node import ALL
from ..ir import Arg, Call, Graph, Item, Loop, Ref, Source, Var, leaves
from ..known_arguments import facts_of

Edge = Ref | Var
Demand = dict[Edge, frozenset[str]]
Names = Mapping[str, str]
"""Maps a part of a node's output to the name of that part in the value that the node passes on."""


def parts(graph: Graph, descriptions: Mapping[Ref, Any]) -> Graph:
    """Return the graph with `wanted` set on every call: the parts of each output that other nodes read.

    `descriptions` holds the facts of outputs before the run.
    """
    demand = demands(graph, descriptions)

    def level(graph: Graph) -> Graph:
        items: dict[str, Item] = {}
        for id, item in graph.items.items():
            if isinstance(item, Loop):
                items[id] = replace(item, body=level(item.body))
            else:
                wanted = {o.name: demand.get(Ref(id, o.name), frozenset()) for o in item.type.outputs}
                items[id] = replace(item, wanted=wanted)
        return replace(graph, items=items)

    return level(graph)


def reads(call: Call, descriptions: Mapping[Ref, Any]) -> dict[str, frozenset[str]]:
    """The parts of each parameter that a call itself reads. A call reads no part of a parameter that it passes on."""
    found: dict[str, frozenset[str]] = {}
    narrowed = call.type.reads(facts_of(call, descriptions)) if call.type.reads is not None else {}
    for name in call.args:
        parameter = call.type.inputs[name]
        if parameter.passes:
            found[name] = frozenset()
        elif name in narrowed:
            found[name] = frozenset(narrowed[name])
        else:
            found[name] = frozenset({ALL}) if parameter.reads is None else parameter.reads
    return found


def renames(items: Mapping[str, Item], descriptions: Mapping[Ref, Any]) -> dict[str, Mapping[str, Names]]:
    """For each call that renames parts of a value that it passes on, the names of these parts in each parameter."""
    return {
        item.id: item.type.renames(facts_of(item, descriptions))
        for item in items.values()
        if isinstance(item, Call) and item.type.renames is not None
    }


def demands(graph: Graph, descriptions: Mapping[Ref, Any]) -> Demand:
    """Find the parts that are read, for every edge, loop variable and carried state.

    The result is a fixed point, because carried state leads back to the start of the loop.
    """
    items = {item.id: item for item, _ in graph.walk()}
    demand: Demand = {}
    own = {item.id: reads(item, descriptions) for item in items.values() if isinstance(item, Call)}
    renamed = renames(items, descriptions)
    work: list[Edge] = []

    def want(arg: Arg, parts: frozenset[str]) -> None:
        for leaf in leaves(arg.source):
            if isinstance(leaf, Ref | Var):
                before = demand.get(leaf)
                if before is None or not parts <= before:
                    demand[leaf] = (before or frozenset()) | parts
                    work.append(leaf)

    for arg in graph.outputs.values():
        want(arg, frozenset({ALL}))
    for id, read in own.items():
        for name, parts in read.items():
            call = items[id]
            assert isinstance(call, Call)
            want(call.args[name], parts)
    while work:
        edge = work.pop()
        for arg, names in passed_on_by(edge, items, renamed):
            want(arg, frozenset(names.get(part, part) for part in demand[edge]))
    return demand


def passed_on_by(
    edge: Source, items: Mapping[str, Item], renamed: Mapping[str, Mapping[str, Names]]
) -> Iterator[tuple[Arg, Names]]:
    """The arguments whose values an edge passes on, with the names of their parts: state, results of loops, and
    parameters that a node passes on."""
    if isinstance(edge, Var):
        loop = items[edge.loop]
        assert isinstance(loop, Loop)
        if edge.name in loop.carry:
            yield loop.carry[edge.name], {}
            yield loop.body.outputs[edge.name], {}
        else:
            yield loop.over[edge.name], {}
    elif isinstance(edge, Ref):
        item = items[edge.node]
        if isinstance(item, Loop):
            yield item.body.outputs[edge.port], {}
            if edge.port in item.carry:
                yield item.carry[edge.port], {}
        else:
            names = renamed.get(item.id, {})
            yield from ((arg, names.get(n, {})) for n, arg in item.args.items() if item.type.inputs[n].passes)


def makers(
    arg: Arg, parts: Iterable[str], items: Mapping[str, Item], renamed: Mapping[str, Mapping[str, Names]]
) -> set[tuple[Ref, str]]:
    """Find the node outputs that an argument's value may come from, each with a part's name in that output.

    The search follows loops, and nodes that pass a value on, back to the node that made the value. For a reader outside
    of a loop, a value from inside the loop comes from the loop itself.
    """
    found: set[tuple[Ref, str]] = set()
    seen: set[tuple[Source, str, tuple[Ref, str] | None]] = set()
    work: list[tuple[Source, str, tuple[Ref, str] | None]]
    work = [(leaf, part, None) for leaf in leaves(arg.source) for part in parts]
    while work:
        edge, part, left = work.pop()
        if not isinstance(edge, Ref | Var) or (edge, part, left) in seen:
            continue
        seen.add((edge, part, left))
        if isinstance(edge, Ref):
            if left is not None and not _inside(edge.node, items[left[0].node]):
                left = None
            if left is None and isinstance(items[edge.node], Loop):
                left = edge, part
        further = list(passed_on_by(edge, items, renamed))
        if not further and isinstance(edge, Ref):
            found.add(left or (edge, part))
        work += [(leaf, names.get(part, part), left) for a, names in further for leaf in leaves(a.source)]
    return found


def _inside(id: str, loop: Item) -> bool:
    return isinstance(loop, Loop) and any(item.id == id for item, _ in loop.body.walk())


def components(graph: Graph, descriptions: Mapping[Ref, Any]) -> dict[str, set[tuple[Ref, str]]]:
    """Map each call to the components that must be in memory while the call runs.

    A component is a pair: the output that holds it, and the name of the part. Only port types with a method `acquire`
    have components. An output also holds a part that other outputs share with it, so that the part stays in memory from
    its first reader to its last (`origins`). Only one other output holds an `own` part if calls read the part through
    that output alone.
    """
    around = {item.id: [loop.id for loop in loops] for item, loops in graph.walk()}
    items = {item.id: item for item, _ in graph.walk()}
    renamed = renames(items, descriptions)
    result: dict[str, set[tuple[Ref, str]]] = {}
    sharing: dict[tuple[Ref, str], set[tuple[Ref, str]]] = {}
    for item in items.values():
        if not isinstance(item, Call):
            continue
        for name, parts in reads(item, descriptions).items():
            type = item.type.inputs[name].type
            while type.item is not None:
                type = type.item
            if not hasattr(type.cls, "acquire"):
                continue
            for component in makers(item.args[name], parts, items, renamed):
                ends = origins({component}, items, renamed, descriptions)
                result.setdefault(item.id, set()).update({component}, ends)
                for end in ends:
                    sharing.setdefault(end, set()).add(component)
    needless = {
        end for end, through in sharing.items() if _held_by_its_reader(end, through, items, around, descriptions)
    }
    return {id: held - needless for id, held in result.items()}


def _held_by_its_reader(
    end: tuple[Ref, str],
    through: Set[tuple[Ref, str]],
    items: Mapping[str, Item],
    around: Mapping[str, Sequence[str]],
    descriptions: Mapping[Ref, Any],
) -> bool:
    """Whether another output alone can hold an `own` part, for as long as the output that the part comes from.

    Args:
        end: The output that the part comes from, and the name of the part.
        through: All components through which calls read the part.
        items: The calls and loops of the graph.
        around: The ids of the loops around each of them.
        descriptions: Facts of outputs.
    """
    maker, part = items[end[0].node], end[1]
    if len(through) > 1 or end in through or not isinstance(maker, Call) or part not in _own(maker, descriptions):
        return False
    [(reader, _)] = through
    return around[reader.node] == around[maker.id]  # one that is deeper in loops holds the part for a turn only


def origins(
    found: Iterable[tuple[Ref, str]],
    items: Mapping[str, Item],
    renamed: Mapping[str, Mapping[str, Names]],
    descriptions: Mapping[Ref, Any],
) -> set[tuple[Ref, str]]:
    """Find the outputs that the parts in `found` come from.

    A part that an output shares with a parameter (`Shares`) comes from that parameter's value. The output's `own` parts
    are not shared.
    """
    ends: set[tuple[Ref, str]] = set()
    work = list(found)
    while work:
        ref, part = work.pop()
        maker = items[ref.node]
        further: set[tuple[Ref, str]] = set()
        if isinstance(maker, Call) and part not in _own(maker, descriptions):
            for name, arg in maker.args.items():
                if maker.type.inputs[name].shares:
                    further |= makers(arg, {part}, items, renamed)
        work += further
        if not further:
            ends.add((ref, part))
    return ends


def _own(call: Call, descriptions: Mapping[Ref, Any]) -> frozenset[str]:
    """The parts that the output of a call does not share."""
    if call.type.own is None:
        return frozenset()
    return frozenset(call.type.own(facts_of(call, descriptions)))
