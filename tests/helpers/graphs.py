"""Random graphs of the node types in `machines.py`, for property tests: nested loops, maps, state, equal nodes."""

from __future__ import annotations

from random import Random
from typing import Any

from hypothesis import strategies as st
from sgd.graph.compiler.ir import Arg, Const, Format, Graph, Index, Item, Items, Loop, Ref, Source, Var

from helpers.machines import arg, call

LIMIT = 3


class Scope:
    """The values that an item may read: cells, lists of cells, machines, plain numbers; and the loops around it."""

    def __init__(self, above: Scope | None = None, loop: str = "") -> None:
        self.cells: list[Source] = list(above.cells) if above else []
        self.lists: list[Source] = list(above.lists) if above else []
        self.machines: list[Source] = list(above.machines) if above else []
        self.plain: list[Source] = list(above.plain) if above else []
        self.loops: list[str] = [*above.loops, loop] if above else []


def graphs(components: bool = False, state: bool = True) -> st.SearchStrategy[Graph]:
    """Graphs of all sizes, without inputs; hypothesis shrinks a failing graph by its size, then by its seed."""
    return st.builds(random_graph, st.integers(3, 20), st.integers(0, 2**32), st.just(components), st.just(state))


def random_graph(size: int, seed: int, components: bool, state: bool) -> Graph:
    """A graph whose outputs are some of its values, more often late ones."""
    rng = Random(f"{size} {seed}")
    names = iter(range(10_000))

    def pick(sources: list[Source]) -> Source:
        # Late sources are more frequent, which makes graphs deep.
        return sources[max(rng.randint(0, len(sources) - 1), rng.randint(0, len(sources) - 1))]

    def cell(scope: Scope, add: Any) -> Source:
        if not scope.cells:
            add("m.const", value=rng.randint(0, 2))
        return pick(scope.cells)

    def level(scope: Scope, prefix: str, depth: int, size: int) -> dict[str, Item]:
        items: dict[str, Item] = {}

        def add(type: str, **args: Any) -> None:
            id = f"{prefix}n{next(names)}"
            items[id] = call(id, type, **args)
            ports = items[id].type.outputs
            for port in ports:
                (scope.machines if port.name == "machine" else scope.cells).append(Ref(id, port.name))

        kinds = ["const", "add", "add", "scale", "split", "join", "loop", "loop", "map", "map"]
        kinds += ["count"] if state else []
        kinds += ["machine", "tune", "encode", "encode", "paint", "paint", "decode", "whole"] if components else []
        for _ in range(size):
            kind = rng.choice(kinds)
            if kind in ("loop", "map"):
                if depth < LIMIT:
                    id = f"{prefix}n{next(names)}"
                    items[id] = loop(scope, id, depth, kind == "map", add)
                    for name in items[id].body.outputs:
                        (scope.lists if kind == "map" else scope.cells).append(Ref(id, name))
            elif kind == "const":
                if scope.loops and rng.random() < 0.5:
                    here = rng.choice(scope.loops)
                    parts: list[Any] = ["t", Index(here)]
                    parts += [pick(scope.plain)] if scope.plain and rng.random() < 0.5 else []
                    add("m.parse", text=Format(tuple(parts)))
                elif scope.plain and rng.random() < 0.5:
                    add("m.const", value=pick(scope.plain))
                else:
                    add("m.const", value=rng.randint(0, 2))
            elif kind == "machine":
                add("m.machine", name=rng.choice("xy"))
            elif kind in ("tune", "encode", "paint", "decode", "whole"):
                if not scope.machines:
                    add("m.machine", name=rng.choice("xy"))
                given: dict[str, Any] = {"machine": pick(scope.machines)}
                if kind in ("paint", "decode"):
                    given["a"] = cell(scope, add)
                add(f"m.{kind}", **given)
            elif kind == "add":
                add("m.add", a=cell(scope, add), b=cell(scope, add))
            elif kind == "join":
                if scope.lists and rng.random() < 0.5:
                    add("m.join", cells=pick(scope.lists))
                elif rng.random() < 0.5:
                    add("m.join", cells=cell(scope, add))
                else:
                    add("m.join", cells=Items((cell(scope, add), cell(scope, add))))
            elif kind == "scale":
                add("m.scale", a=cell(scope, add), **({"by": rng.randint(1, 3)} if rng.random() < 0.5 else {}))
            else:
                add(f"m.{kind}", a=cell(scope, add))
        order = rng.sample(list(items), len(items))
        return {id: items[id] for id in order}

    def loop(scope: Scope, id: str, depth: int, mapping: bool, add: Any) -> Loop:
        inner = Scope(scope, id)
        turns = rng.randint(1, 3)
        over: dict[str, Arg] = {"i": Arg(Const([rng.randint(0, 2) for _ in range(turns)]))}
        inner.plain.append(Var(id, "i"))
        if rng.random() < 0.5:
            if scope.lists and rng.random() < 0.5:
                over = {"c": Arg(pick(scope.lists))}
                inner.plain.pop()
            else:
                over["c"] = Arg(Items(tuple(cell(scope, add) for _ in range(turns))))
            inner.cells.append(Var(id, "c"))
        carry = {} if mapping else {n: arg(cell(scope, add)) for n in ("s", "r")[: rng.randint(1, 2)]}
        inner.cells += [Var(id, n) for n in carry]
        items = level(inner, f"{id}.", depth + 1, rng.randint(1, 4))
        names = list(carry) or ["o", "p"][: rng.randint(1, 2)]

        def add_inside(type: str, **args: Any) -> None:
            name = f"{id}.n{next(names_)}"
            items[name] = call(name, type, **args)
            inner.cells.append(Ref(name, "cell"))

        names_ = names_of
        yields = {n: arg(cell(inner, add_inside)) for n in names}
        return Loop(id, over, carry, Graph(items, yields), mapping=mapping)

    names_of = names
    scope = Scope()
    items = level(scope, "", 0, size)
    made = scope.cells + scope.lists
    if not made:
        items["last"] = call("last", "m.const", value=1)
        made = [Ref("last", "cell")]
    chosen = [pick(made) for _ in range(rng.randint(2, 6))]
    return Graph(items, {f"out{n}": arg(s) for n, s in enumerate(chosen)})
