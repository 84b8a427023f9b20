"""Keys of results by content, for a whole plan, before anything runs.

A mapping loop whose length is known is taken apart: each call in it has a key for each turn. A loop that carries state
has one key as a whole, which also holds the calls in it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..compiler.ir import Arg, Const, Format, Index, Items, Ref, Source, Var, has_effect, output_ports
from ..compiler.passes.fold import format_text, locate
from ..compiler.plan import CallStep, LoopStep, Plan, Step
from ..contract.node import Input, NodeType
from ..contract.ports import plain
from ..contract.processes import ONE_PROCESS, Mesh
from .fingerprints import Files, code_of, digest, machine, packages_of

Place = tuple[str, tuple[int, ...]]
"""The path of a call or loop, and the turns of the loops around it that are taken apart."""


@dataclass(frozen=True)
class Content:
    """A value before the run.

    Attributes:
        key: Its key; None if something that decides it is not known.
        needs: The calls and loops that make it.
        elements: The entries of a list of known length.
        value: The literal, if it is one. A path in it is relative to `base`.
    """

    key: str | None
    needs: frozenset[Place] = frozenset()
    elements: tuple[Content, ...] | None = None
    value: Any = None
    literal: bool = False
    base: Path | None = None


@dataclass(frozen=True)
class Item:
    """A call, a loop as a whole, or a loop that is taken apart, which has no key.

    Attributes:
        place: Its place.
        step: Its step.
        key: The key of its result; None if the result cannot be stored.
        needs: What it reads.
        effect: Whether it runs in any case.
        length: The number of turns of a loop that is taken apart.
    """

    place: Place
    step: CallStep | LoopStep
    key: str | None
    needs: frozenset[Place]
    effect: bool = False
    length: int = 0

    @property
    def calls(self) -> list[str]:
        """The paths of the call, or of all calls in a loop as a whole; none of a loop that is taken apart."""
        if isinstance(self.step, CallStep):
            return [self.step.call.id]
        return [] if self.length else [call.id for call in self.step.loop.body.calls()]


@dataclass
class Keys:
    """The keys of a plan.

    Attributes:
        items: All items by place.
        around: For each call and loop that has items, the loops around it.
        outputs: The places that the workflow's outputs come from.
    """

    items: dict[Place, Item] = field(default_factory=dict)
    around: dict[str, tuple[str, ...]] = field(default_factory=dict)
    outputs: frozenset[Place] = frozenset()

    @property
    def hash(self) -> str:
        """A hash of everything that decides the results of the plan."""
        return digest(*([*place, item.key] for place, item in self.items.items()))


Bindings = dict[Ref | Var | Index, Content]


def keys_of(plan: Plan, device: str, options: Mapping[str, Any], files: Files, mesh: Mesh = ONE_PROCESS.mesh) -> Keys:
    """The keys of all results of a plan.

    Args:
        plan: The plan.
        device: The device of the run.
        options: Values of the options of node libraries.
        files: Hashes of files.
        mesh: How the processes of the run are arranged: nodes that they compute together round in another order.
    """
    decide = {each.key: options.get(each.key, each.default) for x in plan.loaded for each in x.options if each.decides}
    setting = digest(packages_of(plan.loaded), machine(device), device, decide)
    return _Walk(files, setting, str(mesh) if mesh.size > 1 else None).plan(plan)


class _Walk:
    def __init__(self, files: Files, setting: str, mesh: str | None) -> None:
        self.files, self.setting, self.mesh, self.keys = files, setting, mesh, Keys()
        self._types: dict[str, str] = {}

    def plan(self, plan: Plan) -> Keys:
        bindings: Bindings = {}
        self.level(plan.steps, bindings, (), ())
        found = [self.content(arg.source, bindings).needs for arg in plan.outputs.values()]
        self.keys.outputs = frozenset().union(*found)
        return self.keys

    def level(self, steps: Sequence[Step], bindings: Bindings, loops: tuple[str, ...], turns: tuple[int, ...]) -> None:
        for step in steps:
            if isinstance(step, CallStep):
                self.keys.around[step.call.id] = loops
                self.item(step, step.call.id, bindings, turns, step.call.type.effect)
            elif isinstance(step, LoopStep):
                self.keys.around[step.loop.id] = loops
                over = {name: self.content(arg.source, bindings) for name, arg in step.loop.over.items()}
                lengths = {len(each.elements) if each.elements is not None else 0 for each in over.values()}
                if step.loop.mapping and len(lengths) == 1 and min(lengths):
                    self.apart(step, over, min(lengths), bindings, loops, turns)
                else:
                    self.item(step, step.loop.id, bindings, turns, has_effect(step.loop))

    def item(
        self, step: CallStep | LoopStep, id: str, bindings: Bindings, turns: tuple[int, ...], effect: bool
    ) -> None:
        needs: set[Place] = set()
        found = self.fingerprint(step, {}, bindings, needs)
        place = (id, turns)
        key = digest(found, self.setting) if found is not None else None
        pure = not effect and not (isinstance(step, CallStep) and step.call.type.states)
        self.keys.items[place] = Item(place, step, key if pure else None, frozenset(needs), effect)
        item = step.call if isinstance(step, CallStep) else step.loop
        for port in output_ports(item):
            made = digest(key, port) if key is not None and not effect else None
            bindings[Ref(id, port)] = Content(made, frozenset({place}))

    def apart(
        self,
        step: LoopStep,
        over: Mapping[str, Content],
        length: int,
        bindings: Bindings,
        loops: tuple[str, ...],
        turns: tuple[int, ...],
    ) -> None:
        loop = step.loop
        place = (loop.id, turns)
        self.keys.items[place] = Item(place, step, None, frozenset(), length=length)
        collected: dict[str, list[Content]] = {name: [] for name in loop.body.outputs}
        for index in range(length):
            inner: Bindings = dict(bindings)
            here = (*turns, index)
            for name, content in over.items():
                assert content.elements is not None
                inner[Var(loop.id, name)] = content.elements[index]
            inner[Index(loop.id)] = Content(digest("index", index), value=index, literal=True)
            self.level(step.body, inner, (*loops, loop.id), here)
            for name, arg in loop.body.outputs.items():
                made = self.content(arg.source, inner)
                collected[name].append(replace(made, needs=made.needs | {place}))
        for name, contents in collected.items():
            bindings[Ref(loop.id, name)] = _list(contents)

    def content(self, source: Source, bindings: Bindings) -> Content:
        if isinstance(source, Const):
            return _literal(source.value, source.base)
        if isinstance(source, Items):
            return _list([self.content(each, bindings) for each in source.items])
        if isinstance(source, Format):
            parts = [part if isinstance(part, str) else self.content(part, bindings) for part in source.parts]
            found = [part for part in parts if isinstance(part, Content)]
            if all(part.literal for part in found):
                text = format_text(source, [p if isinstance(p, str) else p.value for p in parts])
                return _literal(text, source.base)
            keys = [part if isinstance(part, str) else part.key for part in parts]
            key = None if None in keys else digest("text", source.safe, keys)
            return Content(key, frozenset().union(*(part.needs for part in found)))
        return bindings.get(source, Content(None)) if isinstance(source, Ref | Var | Index) else Content(None)

    def fingerprint(
        self, step: CallStep | LoopStep, local: dict[Source, str], bindings: Bindings, needs: set[Place]
    ) -> Any:
        """The fingerprint of a call, or of a loop with everything in it; None if it is not known."""
        if isinstance(step, CallStep):
            return self.call(step, local, bindings, needs)
        loop, known = step.loop, dict(local)
        given = [[n, self.token(a.source, local, bindings, needs)] for n, a in {**loop.over, **loop.carry}.items()]
        for name in (*loop.over, *loop.carry):
            known[Var(loop.id, name)] = f"{len(known)}"
        known[Index(loop.id)] = f"{len(known)}"
        body: list[Any] = []
        for inner in step.body:
            if isinstance(inner, CallStep | LoopStep):
                body.append(self.fingerprint(inner, known, bindings, needs))
                item = inner.call if isinstance(inner, CallStep) else inner.loop
                for port in output_ports(item):
                    known[Ref(item.id, port)] = f"{len(known)}"
        made = [[n, self.token(a.source, known, bindings, needs)] for n, a in loop.body.outputs.items()]
        if None in body or any(token is None for _, token in (*given, *made)):
            return None
        return ["loop", loop.mapping, given, body, made]

    def call(self, step: CallStep, local: dict[Source, str], bindings: Bindings, needs: set[Place]) -> Any:
        call, type = step.call, step.call.type
        literals = {n: a.source.value for n, a in call.args.items() if isinstance(a.source, Const)}
        given: list[Any] = []
        known = True
        for name, parameter in type.inputs.items():
            arg = call.args.get(name)
            if arg is None:
                given.append([name, digest("literal", plain(parameter.default))])
                continue
            token = self.token(arg.source, local, bindings, needs)
            if parameter.path in ("read", "source"):
                token = self.file(parameter, arg, bindings, literals)
            known = known and token is not None
            given.append([name, token])
        wanted: Any = None
        if "wanted" in type.supplied.values() and call.wanted is not None:
            wanted = {port: sorted(parts) for port, parts in call.wanted.items()}
        here = call.id if "here" in type.supplied.values() else None
        return ["call", self.type(type), given, wanted, here] if known else None

    def type(self, type: NodeType) -> str:
        if type.name not in self._types:
            together = [self.mesh] if self.mesh is not None and type.processes == "split" else []
            self._types[type.name] = digest(type.name, type.version, code_of(type), *together)
        return self._types[type.name]

    def token(self, source: Source, local: dict[Source, str], bindings: Bindings, needs: set[Place]) -> Any:
        """The fingerprint of a source: its number inside the loop, or its key."""
        if isinstance(source, Ref | Var | Index) and source in local:
            return ["local", local[source]]
        if isinstance(source, Items | Format) and local:
            inner = source.items if isinstance(source, Items) else source.parts
            parts = [p if isinstance(p, str) else self.token(p, local, bindings, needs) for p in inner]
            return None if None in parts else [type(source).__name__, getattr(source, "safe", None), parts]
        content = self.content(source, bindings)
        needs.update(content.needs)
        return content.key

    def file(self, parameter: Input, arg: Arg, bindings: Bindings, literals: Mapping[str, Any]) -> Any:
        """The hash of the files that a parameter names; None if they are not known before the run."""
        content = self.content(arg.source, bindings)  # a variable of a loop as a whole has none
        values = [content] if content.elements is None else content.elements
        if not all(each.literal for each in values):
            return None
        found: list[str | None] = []
        for each in values:
            if each.value is None:
                found.append("none")
                continue
            place = locate(each.value, each.base, parameter.path == "source")
            one = self.files.of(place) if isinstance(place, Path) else self.files.of_source(place, literals)
            found.append(one)
        return None if None in found else ["files", found]


def _literal(value: Any, base: Path | None = None) -> Content:
    elements = tuple(_literal(each, base) for each in value) if isinstance(value, list | tuple) else None
    return Content(digest("literal", plain(value)), frozenset(), elements, value, literal=True, base=base)


def _list(contents: Sequence[Content]) -> Content:
    keys = [each.key for each in contents]
    key = None if None in keys else digest("literal", [each.value for each in contents])
    if not all(each.literal for each in contents):
        key = None if None in keys else digest("list", keys)
    literal = all(each.literal for each in contents)
    value = [each.value for each in contents] if literal else None
    needs: frozenset[Place] = frozenset().union(*(each.needs for each in contents))
    return Content(key, needs, tuple(contents), value, literal)
