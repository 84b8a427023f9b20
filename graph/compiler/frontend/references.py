"""resolve: turn the tree of instances into one graph. Each name becomes an edge from the node or input that it names.

Scope is lexical: a loop's body sees its variables, its state, its own nodes and everything around it in the same
file; a composite's file sees its own inputs and nodes only. A name that cannot be resolved is reported and
becomes `BROKEN`, so that the rest can still be checked.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import replace
from typing import Any

from ...contract.diagnostics import Related
from ...contract.node import NodeType
from ...contract.ports import Type, misfit
from ...contract.source_spans import Span
from ...contract.suggestions import did_you_mean
from ...contract.yaml_reader import Value
from ...language.document import Document, Entry, kind_of
from ...language.document_parts import LoopPart, NodePart
from ...language.literals import REFERENCE, Given, normalise
from ...language.registry import Library
from ..ir import (
    BROKEN,
    Arg,
    Call,
    Const,
    Constraint,
    Declared,
    Format,
    Graph,
    Input,
    Item,
    Loop,
    Source,
    Var,
    leaves,
    rewrite,
)
from .aliases import Aliases
from .declarations import declare
from .exchanges import Exchange, exchange_of
from .expand import Instance
from .names import Outlet, Scope, empty_value, is_node, known_names, wired_name


class Resolver(Aliases):
    """Resolves the names of one workflow; `problems` collects the problems."""

    def __init__(self, library: Library, given: Mapping[str, Given]) -> None:
        super().__init__()
        self.library = library
        self.given = given
        self.used: set[str] = set()
        self.settable: dict[str, None] = {}
        self.constraints: list[Constraint] = []
        self.composites: list[tuple[str, str, Span]] = []
        self.settings: dict[str, Any] = {}
        self.null: Set[str] = frozenset()
        self.unread: set[Source] = set()  # read only by parameters that `--set node.uses=` dropped

    def resolve(self, root: Instance, inputs: Mapping[str, Declared], null: Set[str] = frozenset()) -> Graph:
        """Build the graph of a workflow. Its inputs do not have values yet.

        Args:
            root: The workflow.
            inputs: The inputs that `declared` found in its document.
            null: The inputs whose value is null. A composite that receives one takes its own default.
        """
        document = root.document
        self.null, self.inputs = null, inputs
        scope = Scope(None)
        for name in document.inputs:
            source: Source = Input(name) if name in inputs else BROKEN
            scope.names[name] = (source, document.inputs[name][0])
        items, outputs = self.file(root, scope, "")
        for path, given in self.given.items():
            if path not in self.used:
                self.unknown_setting(path, given, items)
        graph = Graph(
            items, outputs, inputs, tuple(self.constraints), document.name, tuple(self.composites), self.exposed()
        )
        return rewrite(graph, self.through_aliases)

    def declared(self, document: Document) -> dict[str, Declared]:
        found = {
            name: declare(name, key, part, self.library.ports, document.folder, self.problems.append)
            for name, (key, part) in document.inputs.items()
            if part is not None
        }
        return {name: d for name, d in found.items() if d is not None}

    def file(self, instance: Instance, scope: Scope, prefix: str) -> tuple[dict[str, Item], dict[str, Arg]]:
        document = instance.document
        items = self.level(document.entries, instance, scope, prefix, prefix)
        outputs = {}
        for name, value in document.outputs.items():
            arg = self.arg(value, scope, instance)
            if arg.source is not BROKEN and not REFERENCE.fullmatch(arg.text):
                self.report("bad-value", f"output `{name}` must be a reference such as `$name`", value.span)
                arg = replace(arg, source=BROKEN)
            outputs[name] = arg
        return items, outputs

    def level(
        self, entries: Mapping[str, Entry], instance: Instance, scope: Scope, prefix: str, file_prefix: str
    ) -> dict[str, Item]:
        """Build the items of one level. `prefix` is the path of the level, `file_prefix` the path of its file."""
        for name, entry in entries.items():
            self.bind(scope, name, self.outlet(entry, instance, prefix, file_prefix), entry.key)
        items: dict[str, Item] = {}
        for name, entry in entries.items():
            path = prefix + name
            if entry.part is None:
                self.used.update(p for p in self.given if p.startswith(f"{path}."))
            elif isinstance(entry.part, LoopPart):
                items[path] = self.loop(path, entry, entry.part, instance, scope, file_prefix)
            elif kind_of(entry.part.uses.data) == "node":
                call = self.call(path, entry.part, instance, scope, file_prefix)
                if call is not None:
                    items[path] = call
            else:
                items.update(self.composite(path, entry.part, instance, scope, file_prefix))
        return items

    def bind(self, scope: Scope, name: str, target: Source | Outlet, span: Span) -> None:
        before = scope.find(name)
        if before is not None:
            first = Related("first meaning here", before[1])
            self.report("shadowed-name", f"`{name}` already has a meaning here", span, related=(first,))
        scope.names[name] = (target, span)

    def outlet(self, entry: Entry, instance: Instance, prefix: str, file_prefix: str) -> Outlet:
        path = prefix + entry.name
        if entry.part is None:
            return Outlet(path, None, entry.key, "node")
        if isinstance(entry.part, LoopPart):
            yields = tuple(entry.part.yield_.data) if entry.part.yield_ is not None else ()
            inside, carries = frozenset(entry.body), entry.part.carry is not None
            return Outlet(path, yields, entry.key, "loop", inside=inside, carries=carries)
        uses = entry.part.uses.data
        exchange = exchange_of(path, self.given)
        if exchange is not None and kind_of(uses) == "node":
            uses = exchange.uses
        elif kind_of(uses) != "node":
            child = instance.children.get(path.removeprefix(file_prefix))
            inside = frozenset(child.document.entries) if child else frozenset()
            return Outlet(path, tuple(child.document.outputs) if child else None, entry.key, uses, inside=inside)
        node_type = self.library.nodes.get(uses)
        kind = uses if exchange is None else f"{uses}, by {exchange.text}"
        if node_type is None:
            return Outlet(path, None, entry.key, kind)
        types = tuple(o.type for o in node_type.outputs)
        return Outlet(path, tuple(o.name for o in node_type.outputs), entry.key, kind, types)

    def call(self, path: str, part: NodePart, instance: Instance, scope: Scope, file_prefix: str) -> Call | None:
        exchange = exchange_of(path, self.given)
        name = part.uses.data if exchange is None else exchange.uses
        node_type = self.library.nodes.get(name)
        written = part.with_.data if part.with_ is not None else {}
        if exchange is not None:
            self.used.add(exchange.path)
            self.settings[exchange.path] = name
        if node_type is None:
            for value in written.values():
                self.source(value, scope, instance)
            if exchange is not None:
                self.problems.append(exchange.unknown(self.library.nodes))
                self.used.update(p for p in self.given if p.startswith(f"{path}."))
                return None
            help = did_you_mean(name, self.library.nodes) or "`sgd nodes` lists what is installed"
            self.report("unknown-node-type", f"no node type `{name}`", part.uses.span, help=help)
            self.used.update(p for p in self.given if p.startswith(f"{path}."))
            return None
        args: dict[str, Arg] = {}
        if exchange is not None:
            written = self.exchanged(exchange, part, node_type, scope, instance)
        for parameter, value in written.items():
            if parameter not in node_type.inputs:
                assert part.with_ is not None
                help = empty_value(value) or did_you_mean(parameter, node_type.inputs) or known_names(node_type.inputs)
                span = part.with_.keys[parameter]
                self.report("unknown-parameter", f"{name} has no parameter `{parameter}`", span, help=help)
                self.source(value, scope, instance)
                continue
            args[parameter] = self.arg(value, scope, instance, node_type.inputs[parameter].type)
            if exchange is not None:
                args[parameter] = replace(args[parameter], given=exchange.text)
        self.settable[f"{path}.uses"] = None
        for parameter, declared in node_type.inputs.items():
            setting = f"{path}.{parameter}"
            if not declared.is_port or declared.type.kind == "var":
                self.settable[setting] = None
            value = written.get(parameter)
            set_to = self.setting(setting, value, declared.type, instance.document, file_prefix, part.uses.span)
            if set_to is not None:
                args[parameter] = set_to
            arg = args.get(parameter)
            if arg is not None and isinstance(arg.source, Format) and declared.path == "write":
                args[parameter] = replace(arg, source=replace(arg.source, safe=True))
            if declared.required and (arg is None or arg.source == Const(None)):
                args[parameter] = Arg(BROKEN, part.uses.span)
                if exchange is not None and parameter not in written:
                    self.problems.append(exchange.missing(setting, declared))
                    continue
                message = f"{name} needs `{parameter}`" + (f": {declared.doc}" if declared.doc else "")
                span = written[parameter].span if parameter in written else part.uses.span
                self.report("missing-parameter", message.rstrip("."), span)
        return Call(path, node_type, args, part.uses.span, (path,), given=exchange.text if exchange is not None else "")

    def exchanged(
        self, exchange: Exchange, part: NodePart, type: NodeType, scope: Scope, instance: Instance
    ) -> Mapping[str, Value]:
        """The parameters of the file that the new type has too. A warning names the others; what they read is noted."""
        written = part.with_.data if part.with_ is not None else {}
        dropped = [name for name in written if name not in type.inputs]
        if dropped:
            self.problems.append(exchange.drops(dropped, part.uses.data))
        for name in dropped:
            read = leaves(self.source(written[name], scope, instance))
            self.unread.update(each for each in read if not isinstance(each, Const))  # a list has no hash
        return {name: value for name, value in written.items() if name in type.inputs}

    def setting(
        self, path: str, written: Value | None, type: Type, document: Document, file_prefix: str, place: Span
    ) -> Arg | None:
        """The argument of `--set path=…`; None if it is not given, or was reported as wrong.

        `place` is the span of the node's `uses`, for a parameter that the file does not write.
        """
        given = self.given.get(path)
        if given is None:
            return None
        self.used.add(path)
        name = wired_name(written)
        if name is not None and written is not None:
            if name in document.inputs:
                help = f"give {name}=…" if not file_prefix else f"use --set {file_prefix}{name}=…"
            else:
                first = f"set a parameter of `{name}`, or " if is_node(name, document.entries) else ""
                help = f"{first}edit the file"
            related = (Related(f"wired to `{name}` here", written.span),)
            message = f"--set {path}: the parameter is wired to `{name}`"
            self.report("wired-parameter", message, None, related=related, help=help)
            return None
        if type.is_port and type.kind != "var":
            message = f"--set {path}: the parameter takes {type}, which only a node can give"
            self.report("wired-parameter", message, None)
            return None
        span = written.span if written is not None else place
        value = given.read(type)
        self.settings[path] = normalise(type, value) if misfit(type, value) is None else value
        return Arg(Const(value, given.base), span, given=f"--set {path}")

    def composite(
        self, path: str, part: NodePart, instance: Instance, scope: Scope, file_prefix: str
    ) -> dict[str, Item]:
        child = instance.children.get(path.removeprefix(file_prefix))
        if (exchange := exchange_of(path, self.given)) is not None:
            self.used.add(exchange.path)
            self.problems.append(exchange.of_file(part.uses.data))
        written = part.with_.data if part.with_ is not None else {}
        declared = self.declared(child.document) if child is not None else {}
        wanted = {name: each.type for name, each in declared.items()}
        sources = {n: self.arg(v, scope, instance, wanted.get(n)) for n, v in written.items()}
        if child is None:
            self.used.update(p for p in self.given if p.startswith(f"{path}."))
            return {}
        name = part.uses.data
        for parameter, value in written.items():
            if parameter not in child.document.inputs:
                assert part.with_ is not None
                help = empty_value(value) or did_you_mean(parameter, declared) or known_names(declared)
                span = part.with_.keys[parameter]
                self.report("unknown-parameter", f"{name} has no input `{parameter}`", span, help=help)
        inner = Scope(None)
        for parameter, (key, _) in child.document.inputs.items():
            found = declared.get(parameter)
            if found is None:
                inner.names[parameter] = (BROKEN, key)
                continue
            arg = sources.get(parameter)
            setting = f"{path}.{parameter}"
            if not found.type.is_port:
                self.settable[setting] = None
            value = written.get(parameter)
            place = part.uses.span
            arg = self.setting(setting, value, found.type, instance.document, file_prefix, place) or arg
            if arg is not None and arg.source != Const(None):
                self.constraints.append(Constraint(f"`{parameter}` of {name}", found, arg))
            if arg is not None and not self.is_null(arg.source):
                pass
            elif found.default is not None:
                arg = Arg(found.default, key)
            else:
                message = f"{name} needs `{parameter}`" + (f": {found.about}" if found.about else "")
                span = written[parameter].span if parameter in written else part.uses.span
                self.report("missing-parameter", message.rstrip("."), span, related=(Related("declared here", key),))
                arg = Arg(BROKEN, key)
            inner.names[parameter] = (arg.source, key)
        self.composites.append((path, name, part.uses.span))
        items, outputs = self.file(child, inner, f"{path}.")
        for output, arg in outputs.items():
            self.aliases[path, output] = arg
        return items

    def is_null(self, source: Source) -> bool:
        return source == Const(None) or (isinstance(source, Input) and source.name in self.null)

    def loop(self, path: str, entry: Entry, part: LoopPart, instance: Instance, scope: Scope, file_prefix: str) -> Loop:
        over = {n: self.arg(v, scope, instance) for n, v in part.for_.data.items()}
        carried = part.carry.data if part.carry is not None else {}
        carry = {n: self.arg(v, scope, instance) for n, v in carried.items()}
        inner = Scope(scope, path)
        for names in (part.for_, part.carry):
            for name, span in names.keys.items() if names is not None else ():
                self.bind(inner, name, Var(path, name), span)
        items = self.level(entry.body, instance, inner, f"{path}.", file_prefix)
        yielded = part.yield_.data if part.yield_ is not None else {}
        outputs = {n: self.arg(v, inner, instance) for n, v in yielded.items()}
        where = part.yield_.span if part.yield_ is not None else entry.key
        for name in carry:
            if name not in outputs:
                related = (Related("carried here", part.carry.keys[name]),) if part.carry else ()
                message = f"loop `{entry.name}` carries `{name}` but does not yield `{name}`"
                self.report("yield-mismatch", message, where, related=related)
                outputs[name] = Arg(BROKEN, where)
        if carry:
            for name in [n for n in outputs if n not in carry]:
                assert part.yield_ is not None
                message = f"loop `{entry.name}` yields `{name}` but does not carry `{name}`"
                help = did_you_mean(name, carry) or "add it to `carry`, with its first value"
                self.report("yield-mismatch", message, part.yield_.keys[name], help=help)
                del outputs[name]
        return Loop(path, over, carry, Graph(items, outputs), entry.key, mapping=not carry)

    def unknown_setting(self, path: str, given: Given, items: Mapping[str, Item]) -> None:
        help = did_you_mean(path, self.settable) or "paths look like `node.parameter`, `loop.node.parameter`"
        self.report("unknown-parameter", f"--set {path}: no such parameter in this workflow", None, help=help)


def passed_on(arg: Arg, refused: list[Arg]) -> bool:
    """Whether an argument in a composite's file is an input whose value was already reported as wrong."""
    return any(
        r.source == arg.source and r.span is not None and arg.span is not None and r.span.file != arg.span.file
        for r in refused
    )
