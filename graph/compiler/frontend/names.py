"""names: resolve the names and literals of a file in their scope.

Scope is lexical: a loop's body sees its variables, its state, its own nodes and everything around it in the same
file. A name that cannot be resolved is reported and becomes `BROKEN`, so that the rest can still be checked.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ...contract.diagnostics import Diagnostic, Related
from ...contract.source_spans import Span
from ...contract.suggestions import did_you_mean
from ...contract.yaml_reader import Value
from ...language.document import NAME, LoopPart
from ...language.literals import split
from ..ir import BROKEN, Arg, Const, Format, Index, Items, Ref, Source
from .expand import Instance

# The search for similar names takes time, so only the first mistakes get a suggestion.
MAX_HINTS = 100


@dataclass(frozen=True)
class Outlet:
    """A node, loop or composite in scope: its path, output ports (None if unknown), place and kind."""

    path: str
    ports: tuple[str, ...] | None
    span: Span
    kind: str


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
        self.hints = 0

    def report(self, code: str, message: str, span: Span | None, **more: Any) -> None:
        self.problems.append(Diagnostic(code, message, span, **more))

    def arg(self, value: Value, scope: Scope, instance: Instance) -> Arg:
        text = value.data if isinstance(value.data, str) else ""
        return Arg(self.source(value, scope, instance), value.span, text)

    def source(self, value: Value, scope: Scope, instance: Instance) -> Source:
        """The source that a value in the file stands for."""
        folder = instance.document.folder
        if isinstance(value.data, list):
            items = tuple(self.source(v, scope, instance) for v in value.data)
            if all(isinstance(i, Const) and i is not BROKEN for i in items):
                return Const([i.value for i in items], folder)  # type: ignore[union-attr]
            return Items(items, tuple(v.span for v in value.data))
        if not isinstance(value.data, str):
            return Const(value.plain(), folder)
        try:
            parts = split(value.data)
        except ValueError as error:
            self.report("bad-value", str(error), value.span)
            return BROKEN
        if isinstance(parts, str):
            return Const(parts, folder)
        if isinstance(parts, tuple):
            return self.reference(parts[0], parts[1], value.span, scope, instance)
        found = tuple(p if isinstance(p, str) else self.interpolated(p[0], value.span, scope, instance) for p in parts)
        return BROKEN if BROKEN in found else Format(found, base=folder)

    def reference(self, name: str, port: str | None, span: Span, scope: Scope, instance: Instance) -> Source:
        found = scope.find(name)
        if found is None:
            help = self.hint(name, scope, instance)
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
            help = did_you_mean(port, target.ports, f"`${name}.{{}}`") or "outputs: " + ", ".join(
                f"`{p}`" for p in target.ports
            )
            self.report("unknown-reference", f"`{name}` has no output `{port}`", span, related=related, help=help)
            return BROKEN
        return Ref(target.path, port or target.ports[0])

    def hint(self, name: str, scope: Scope, instance: Instance, quote: str = "`${}`") -> str | None:
        self.hints += 1
        if self.hints > MAX_HINTS:
            return None
        for entry in instance.document.entries.values():
            if not isinstance(entry.part, LoopPart):
                continue
            if name in entry.body:
                yields = entry.part.yield_.data if entry.part.yield_ is not None else {}
                found = next((y for y, value in yields.items() if value.data == f"${name}"), None)
                read = f"read `${entry.name}.{found or name}`"
                advice = read if found else f"add `{name}` to the `yield` of the loop, and {read}"
                return f"`{name}` is inside loop `{entry.name}`: {advice}"
            if name in entry.part.for_.data:
                return f"`{name}` is a variable of loop `{entry.name}`, visible only inside the loop"
        return did_you_mean(name, scope.all(), quote)

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
