"""names: resolve the names and literals of a file in their scope.

Scope is lexical: a loop's body sees its variables, its state, its own nodes and everything around it in the same
file. A name that cannot be resolved is reported and becomes `BROKEN`, so that the rest can still be checked.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ...contract.diagnostics import Diagnostic, Related
from ...contract.ports import Type, accepts
from ...contract.source_spans import Span
from ...contract.suggestions import asked, did_you_mean, plain_letters, similar
from ...contract.yaml_reader import Value
from ...language.document import NAME, Entry
from ...language.document_parts import LoopPart
from ...language.literals import split
from ..ir import BROKEN, Arg, Const, Declared, Format, Index, Input, Items, Ref, Source
from .expand import Instance

# The search for similar names takes time, so only the first mistakes get a suggestion.
MAX_HINTS = 100


@dataclass(frozen=True)
class Outlet:
    """A node, loop or composite in scope.

    Attributes:
        path: Its path.
        ports: Its output ports; None if they are not known.
        span: Its place.
        kind: Its node type, its file, or `loop`.
        types: The types of its ports; empty if they are not known.
        inside: The names of the nodes in it.
        carries: Whether it is a loop with `carry`.
    """

    path: str
    ports: tuple[str, ...] | None
    span: Span
    kind: str
    types: tuple[Type, ...] = ()
    inside: frozenset[str] = frozenset()
    carries: bool = False


class Scope:
    """Names visible at one level of one file."""

    def __init__(self, outer: Scope | None, loop: str | None = None) -> None:
        self.outer, self.loop = outer, loop
        self.names: dict[str, tuple[Source | Outlet, Span]] = {}

    def find(self, name: str) -> tuple[Source | Outlet, Span] | None:
        return self.names.get(name) or (self.outer.find(name) if self.outer else None)

    def all(self) -> Iterator[str]:
        yield from self.names
        if self.outer:
            yield from self.outer.all()

    def innermost_loop(self) -> str | None:
        return self.loop or (self.outer.innermost_loop() if self.outer else None)


class Names:
    """Turns values of a file into sources; `problems` collects the problems."""

    def __init__(self) -> None:
        self.problems: list[Diagnostic] = []
        self.inputs: Mapping[str, Declared] = {}
        self.hints = 0

    def report(self, code: str, message: str, span: Span | None, **more: Any) -> None:
        self.problems.append(Diagnostic(code, message, span, **more))

    def arg(self, value: Value, scope: Scope, instance: Instance, wanted: Type | None = None) -> Arg:
        """The argument that a value in the file stands for. `wanted` is the type that its reader takes."""
        text = value.data if isinstance(value.data, str) else ""
        source = self.source(value, scope, instance, wanted)
        return Arg(source, value.span, text, hint=self.forgotten(source, text, scope, wanted))

    def forgotten(self, source: Source, text: str, scope: Scope, wanted: Type | None) -> str:
        """The help for a text that may be a name without its `$`; empty if it is none."""
        if not isinstance(source, Const) or source is BROKEN or not text:
            return ""
        written = plain_letters(text)
        name, _, port = written.removeprefix("$").partition(".")
        if scope.find(name) is not None and (not port or NAME.fullmatch(port)):
            return f"did you mean `${name}{'.' if port else ''}{port}`? A reference begins with `$`"
        if wanted is not None and wanted.is_port and (found := self.closest(name, scope, wanted)) is not None:
            return f"did you mean `${found}`? A reference begins with `$`"
        return ""

    def source(self, value: Value, scope: Scope, instance: Instance, wanted: Type | None = None) -> Source:
        """The source that a value in the file stands for."""
        folder = instance.document.folder
        if isinstance(value.data, list):
            entry = wanted.item if wanted is not None and wanted.kind == "list" else None
            items = tuple(self.source(v, scope, instance, entry) for v in value.data)
            if all(isinstance(i, Const) and i is not BROKEN for i in items):
                return Const([i.value for i in items], folder)  # type: ignore[union-attr]
            return Items(items, tuple(v.span for v in value.data))
        if not isinstance(value.data, str):
            return Const(value.plain(), folder)
        try:
            parts = split(value.data)
        except ValueError as error:
            self.report("bad-value", str(error), value.span, help=_longer_path(value.data, scope))
            return BROKEN
        if isinstance(parts, str):
            return Const(parts, folder)
        if isinstance(parts, tuple):
            return self.reference(parts[0], parts[1], value.span, scope, instance, wanted)
        found = tuple(p if isinstance(p, str) else self.interpolated(p[0], value.span, scope, instance) for p in parts)
        return BROKEN if BROKEN in found else Format(found, base=folder)

    def reference(
        self, name: str, port: str | None, span: Span, scope: Scope, instance: Instance, wanted: Type | None = None
    ) -> Source:
        found = scope.find(name)
        if found is None:
            help = self.hint(name, scope, instance, wanted=wanted)
            self.report("unknown-reference", f"nothing here is named `{name}`", span, help=help)
            return BROKEN
        target, span_of_name = found
        if not isinstance(target, Outlet):
            if port is not None:
                related = (Related("declared here", span_of_name),)
                self.report("unknown-reference", f"`{name}` has no ports: write `${name}`", span, related=related)
                return BROKEN
            return target
        if target.ports is None:
            return BROKEN
        if not target.ports:
            help = "add a `yield` to the loop" if target.kind == "loop" else None
            related = (Related(target.kind, target.span),)
            self.report("unknown-reference", f"`{name}` has no outputs", span, related=related, help=help)
            return BROKEN
        if port is not None and port not in target.ports:
            related = (Related(target.kind, target.span),)
            outputs = "outputs: " + ", ".join(f"`{p}`" for p in target.ports)
            help = _inside(name, port, target) or did_you_mean(port, target.ports, f"`${name}.{{}}`") or outputs
            self.report("unknown-reference", f"`{name}` has no output `{port}`", span, related=related, help=help)
            return BROKEN
        return Ref(target.path, port or target.ports[0])

    def hint(
        self, name: str, scope: Scope, instance: Instance, quote: str = "`${}`", wanted: Type | None = None
    ) -> str | None:
        self.hints += 1
        if self.hints > MAX_HINTS:
            return None
        for entry in instance.document.entries.values():
            if not isinstance(entry.part, LoopPart):
                continue
            if name in entry.body:
                yields = entry.part.yield_.data if entry.part.yield_ is not None else {}
                found = next((y for y, value in yields.items() if value.data == f"${name}"), None)
                inside = f"`{name}` is inside loop `{entry.name}`"
                if found is None and entry.part.carry is not None and yields:
                    return f"{inside}: read what the loop yields, {_read(entry.name, yields)}"
                read = f"read `${entry.name}.{found or name}`"
                advice = read if found else f"add `{name}` to the `yield` of the loop, and {read}"
                return f"{inside}: {advice}"
            if name in entry.part.for_.data:
                return f"`{name}` is a variable of loop `{entry.name}`, visible only inside the loop"
        if wanted is not None and wanted.is_port:
            fitting = self.closest(name, scope, wanted)
            return asked(name, fitting, quote) if fitting is not None else did_you_mean(name, scope.all(), quote)
        return did_you_mean(name, scope.all(), quote)

    def closest(self, name: str, scope: Scope, wanted: Type) -> str | None:
        """The visible name that is most similar to `name`, of those with the wanted type or a type that is not known.

        If no name is similar, the only one of the wanted type. None if there are several or none.
        """
        types = {option: self.type_of(option, scope) for option in scope.all()}
        fitting = {option for option, type in types.items() if type is None or accepts(wanted, type)}
        close = similar(name, fitting, 1)
        if close:
            return close[0]
        sure = [option for option in fitting if types[option] is not None]
        return sure[0] if len(sure) == 1 else None

    def type_of(self, name: str, scope: Scope) -> Type | None:
        """The type of a visible name; None if it is not known here."""
        found = scope.find(name)
        target = found[0] if found is not None else None
        if isinstance(target, Outlet):
            return target.types[0] if target.types and target.types[0].kind != "var" else None
        declared = self.inputs.get(target.name) if isinstance(target, Input) else None
        return declared.type if declared is not None else None

    def interpolated(self, name: str, span: Span, scope: Scope, instance: Instance) -> Source:
        if name == "name":
            return Const(instance.document.name)
        if name == "index":
            loop = scope.innermost_loop()
            if loop is None:
                self.report("unknown-reference", "${index} is the number of a loop's turn; there is no loop here", span)
                return BROKEN
            return Index(loop)
        whole, _, port = name.partition(".")
        found = scope.find(whole)
        if found is None or (port and not isinstance(found[0], Outlet | Ref)):
            help = self.hint(name, scope, instance, "`${{{}}}`")
            if not NAME.fullmatch(name):
                help = "${…} takes the name of an input, or of a loop variable; $$ is a dollar sign"
            self.report("unknown-reference", f"nothing here is named `{name}`", span, help=help)
            return BROKEN
        if isinstance(found[0], Outlet | Ref):
            related = (Related("a node's output", found[1]),)
            message = f"`{name}` is a node's output and cannot be interpolated"
            help = f"write ${name} alone for an edge; only plain values can be part of a longer string"
            self.report("bad-value", message, span, related=related, help=help)
            return BROKEN
        return found[0]


def _longer_path(text: str, scope: Scope) -> str | None:
    """The help for `$loop.inner.node`, a path as tables show it; None if there is no such loop or composite."""
    name, _, path = text.removeprefix("$").partition(".")
    found = scope.find(name)
    return _inside(name, path, found[0]) if found is not None and isinstance(found[0], Outlet) else None


def _inside(name: str, port: str, target: Outlet) -> str | None:
    """The help for a node of a loop or a composite that is read from outside; None if there is no such node.

    `port` is the node's name, or its path in the loop or composite.
    """
    if port.partition(".")[0] not in target.inside or not target.ports:
        return None
    read = _read(name, target.ports)
    if target.kind != "loop":
        return f"`{port}` is a node of {target.kind}: read an output of the file, {read}"
    if target.carries or "." in port:
        return f"`{port}` is inside loop `{name}`: read what the loop yields, {read}"
    return f"`{port}` is inside loop `{name}`: add `{port}: ${port}` to its `yield`, or read {read}"


def _read(name: str, ports: Iterable[str]) -> str:
    return " or ".join(f"`${name}.{port}`" for port in ports)


def wired_name(value: Value | None) -> str | None:
    """The first name that a value in the file refers to, None for a literal or text with names in it."""
    if value is None:
        return None
    if isinstance(value.data, list):
        return next((w for w in map(wired_name, value.data) if w is not None), None)
    try:
        parts = split(value.data) if isinstance(value.data, str) else ""
    except ValueError:
        return None
    return parts[0] if isinstance(parts, tuple) else None


def is_node(name: str, entries: Mapping[str, Entry]) -> bool:
    return name in entries or any(is_node(name, entry.body) for entry in entries.values())


def empty_value(value: Value) -> str | None:
    """The help for a name without a value inside { }, which is probably text after a comma; else None."""
    empty = (value.span.line, value.span.column) == (value.span.end_line, value.span.end_column)
    return "text that contains a comma needs quotes inside { }" if value.data is None and empty else None


def known_names(names: Mapping[str, Any]) -> str:
    return "parameters: " + ", ".join(f"`{n}`" for n in names) if names else "this node type has no parameters"
