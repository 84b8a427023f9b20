"""Edit the text of a workflow file: set a parameter, insert or replace a node. Comments and layout stay as they are."""

from __future__ import annotations

import json
import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from ..contract.errors import NodeError
from ..contract.file_edits import FileEdit, InsertNode, PlainValue, ReplaceNode, SetParameter
from ..contract.source_spans import BREAK, Source, Span
from ..contract.yaml_reader import Value, parse, scalar
from .literals import REFERENCE

COMMENT = re.compile("#[^\r\n\x85\u2028\u2029]*")  # to the end of the line, where no scalar is


@dataclass(frozen=True)
class LineChange:
    """Lines of a file that an edit changes.

    Attributes:
        first: The first changed line of the text before, from 1. New lines stand before it if `count` is 0.
        count: Number of lines of the text before.
        lines: The lines that take their place.
    """

    first: int
    count: int
    lines: tuple[str, ...]


def edited(text: str, edits: Iterable[FileEdit]) -> str:
    """The text of a workflow file after edits.

    Args:
        text: The text of a file without errors.
        edits: The edits, which are made in this order.

    Raises:
        NodeError: If a node does not stand in this file, or an edit cannot be written because of anchors and aliases.
    """
    for edit in edits:
        made = _Edit(text)
        if isinstance(edit, SetParameter):
            made.set(edit)
        elif isinstance(edit, ReplaceNode):
            made.exchange(edit)
        else:
            made.insert(edit)
        text = made.result()
    return text


def line_changes(before: str, after: str, apart: int = 2) -> list[LineChange]:
    """The lines that differ between two texts. Changes that lie at most `apart` lines apart are one change."""
    from difflib import SequenceMatcher

    old, new = before.splitlines(), after.splitlines()
    found: list[list[int]] = []
    for tag, i1, i2, j1, j2 in SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if tag == "equal":
            continue
        if found and i1 - found[-1][1] <= apart:
            found[-1][1], found[-1][3] = i2, j2
        else:
            found.append([i1, i2, j1, j2])
    return [LineChange(i1 + 1, i2 - i1, tuple(new[j1:j2])) for i1, i2, j1, j2 in found]


class _Edit:
    """One edit of a text: replacements at places that are collected first."""

    def __init__(self, text: str) -> None:
        self.text = text
        source = Source("<file>", None, text)
        root, _ = parse(source)
        assert root is not None
        self.root = root
        self.starts = [0, *(match.end() for match in BREAK.finditer(text))]
        self.changes: dict[tuple[int, int], str] = {}
        self.newline = "\r\n" if "\r\n" in text else "\n"

    def result(self) -> str:
        text = self.text
        for (start, end), new in sorted(self.changes.items(), reverse=True):
            text = text[:start] + new + text[end:]
        return text

    def at(self, line: int, column: int) -> int:
        """The index in the text of a place, both counted from 1."""
        return self.starts[line - 1] + column - 1

    def written(self, span: Span) -> str:
        return self.text[self.at(span.line, span.column) : self.at(span.end_line, span.end_column)]

    def replace(self, span: Span, new: str) -> None:
        self.changes[self.at(span.line, span.column), self.at(span.end_line, span.end_column)] = new

    def add(self, at: int, new: str) -> None:
        self.changes[at, at] = self.changes.get((at, at), "") + new

    def find(self, path: str) -> tuple[Value, Value, str]:
        """The mapping of nodes that holds a node, what surrounds this mapping, and the node's name in it.

        Raises:
            NodeError: If the file has no such node.
        """
        around: Value | None = self.root
        level: Value | None = self.root.data.get("nodes")
        *loops, name = path.split(".")
        for loop in loops:
            around = level.data.get(loop) if level is not None and level.is_map else None
            level = around.data.get("body") if around is not None and around.is_map else None
        if around is None or level is None or not level.is_map or name not in level.data:
            help = "edit that file instead; of one that comes with sgd, make a copy of your own first: `sgd init NAME`"
            raise NodeError(f"`{path}` does not stand in this file, but in one that it uses", help=help)
        return level, around, name

    def set(self, edit: SetParameter) -> None:
        level, _, name = self.find(edit.node)
        entry = level.data[name]
        given = entry.data.get("with")
        new = _scalar(edit.value)
        if given is None or given.data is None:
            if given is not None:
                raise NodeError(f"`with` of `{edit.node}` is empty", help="write its parameters, or leave it out")
            self.add_key(entry, "with", f"{{{edit.parameter}: {new}}}")
        elif edit.parameter in given.data:
            old = given.data[edit.parameter]
            self.plain(old.span)
            self.replace(old.span, new)
        else:
            self.add_key(given, edit.parameter, new)

    def exchange(self, edit: ReplaceNode) -> None:
        level, _, name = self.find(edit.node)
        entry = level.data[name]
        if "uses" not in entry.data:
            raise NodeError(f"`{edit.node}` is a loop", help="name a node, which has `uses`")
        self.plain(entry.span)
        uses, given = entry.data["uses"], entry.data.get("with")
        before = given.data if given is not None and given.is_map else {}
        parameters = {
            name: self.written(value.span)
            for name, value in before.items()
            if name in edit.keep and isinstance(value.data, str) and REFERENCE.fullmatch(value.data)
        }
        parameters |= {name: _data(value) for name, value in edit.values.items()}
        values = "{" + ", ".join(f"{name}: {text}" for name, text in parameters.items()) + "}"
        self.plain(uses.span)
        self.replace(uses.span, edit.uses)
        if given is None:
            self.add_key(entry, "with", values)
            return
        self.plain(given.span)
        start, end = self.at(given.span.line, given.span.column), self.end(given)
        self.changes[start, end] = self.with_comments(values, given, start, end)

    def with_comments(self, new: str, old: Value, start: int, end: int) -> str:
        """New text in { } for a mapping, with the comments among its entries: before a block, else at the end."""
        comments = self.comments(old, start, end)
        if not comments:
            return new
        if self.text[start] != "{":
            indent = " " * (old.span.column - 1)
            return "".join(f"{comment}{self.newline}{indent}" for comment in comments.values()) + new
        (_, first), *others = comments.items()
        lines = [f"{new[:-1]}  {first}", *(self.indent(at) + comment for at, comment in others), self.indent(end) + "}"]
        return self.newline.join(lines)

    def comments(self, value: Value, start: int, end: int) -> dict[int, str]:
        """The comments between two indices of the text, by their index. `value` has all scalars that stand there."""
        text = self.text
        inner = list(_each(value))
        scalars = [each.span for each in inner if not (each.is_map or each.is_list)]
        for span in (*scalars, *(key for each in inner for key in each.keys.values())):
            first, last = self.at(span.line, span.column), self.at(span.end_line, span.end_column)
            if text.startswith(("|", ">"), first) and (line_end := BREAK.search(text, first, last)):
                first = line_end.end()  # a comment may stand behind the sign of a block of text
            text = text[:first] + "x" * (last - first) + text[last:]
        return {match.start(): match[0] for match in COMMENT.finditer(text, start, end)}

    def indent(self, at: int) -> str:
        """The whitespace that begins the line of an index."""
        line = self.text[self.starts[bisect_right(self.starts, at) - 1] :]
        return line[: len(line) - len(line.lstrip(" \t"))]

    def end(self, value: Value) -> int:
        """The index in the text after a value. A block ends with its last entry, before comments and line breaks."""
        inner = list(value.data.values() if value.is_map else value.data) if value.is_map or value.is_list else []
        if inner and self.text[self.at(value.span.line, value.span.column)] not in "{[":
            return max(self.end(each) for each in inner)
        end = self.at(value.span.end_line, value.span.end_column)
        return len(self.text[:end].rstrip()) if value.span.end_column == 1 else end

    def insert(self, edit: InsertNode) -> None:
        level, around, name = self.find(edit.after)
        new = self.free_name(edit.name)
        values = {edit.parameter: f"${name}", **edit.values}
        inner = ", ".join(f"{n}: {_scalar(v)}" for n, v in values.items())
        node = f"{new}: {{uses: {edit.uses}, with: {{{inner}}}}}"
        for value in _each(around):
            match = re.fullmatch(rf"\${name}(\.\w+)?", value.data, re.ASCII) if isinstance(value.data, str) else None
            if match is not None and value.data in self.written(value.span):
                self.replace(value.span, self.written(value.span).replace(value.data, f"${new}"))
        entry = level.data[name]
        if self.is_flow(level):
            self.add(self.at(entry.span.end_line, entry.span.end_column), f", {node}")
            return
        indent = " " * (level.keys[name].column - 1)
        last = self.last_line(entry)
        end = self.starts[last] if last < len(self.starts) else len(self.text)
        broken = "" if end and self.text[end - 1] in "\r\n" else self.newline
        self.add(end, f"{broken}{indent}{node}{self.newline}")

    def add_key(self, mapping: Value, key: str, value: str) -> None:
        """Add a key to a mapping, in its own style: last in { }, else first or, to a node, after `uses`."""
        if self.is_flow(mapping):
            if mapping.data:
                last = list(mapping.data.values())[-1].span
                self.add(self.at(last.end_line, last.end_column), f", {key}: {value}")
            else:
                self.add(self.at(mapping.span.line, mapping.span.column) + 1, f"{key}: {value}")
            return
        column = min(span.column for span in mapping.keys.values())
        uses = mapping.data.get("uses")
        if uses is not None:
            self.add(
                self.at(uses.span.end_line, uses.span.end_column), f"{self.newline}{' ' * (column - 1)}{key}: {value}"
            )
        else:
            first = min(mapping.keys.values(), key=lambda span: (span.line, span.column))
            self.add(self.at(first.line, first.column), f"{key}: {value}{self.newline}{' ' * (column - 1)}")

    def is_flow(self, mapping: Value) -> bool:
        self.plain(mapping.span)
        return self.text[self.at(mapping.span.line, mapping.span.column)] == "{"

    def plain(self, span: Span) -> None:
        """Refuse to edit a value that several places share.

        Raises:
            NodeError: If an anchor or an alias stands there.
        """
        if self.text[self.at(span.line, span.column)] in "&*":
            message = f"line {span.line} has an anchor or an alias, and an edit would change several places"
            raise NodeError(message, help="write the value out at each of these places, without `&` and `*`")

    def last_line(self, value: Value) -> int:
        """The last line of a value, counted from 1. A block ends with its last entry, before comments."""
        if (value.is_map or value.is_list) and self.text[self.at(value.span.line, value.span.column)] not in "{[*":
            inner = value.data.values() if value.is_map else value.data
            return max((self.last_line(v) for v in inner), default=value.span.line)
        return value.span.end_line - (value.span.end_column == 1 and value.span.end_line > value.span.line)

    def free_name(self, wanted: str) -> str:
        """`wanted`, with a number if the file has the name already. No two names of a file may be equal."""
        taken = {name for value in _each(self.root) for name in value.keys}
        numbers = (f"{wanted}_{n}" for n in range(2, len(taken) + 3))
        return next(name for name in (wanted, *numbers) if name not in taken)


def _each(value: Value) -> Iterator[Value]:
    """A value, and all values in it."""
    yield value
    if value.is_map or value.is_list:
        for inner in value.data.values() if value.is_map else value.data:
            yield from _each(inner)


def _data(value: Any) -> str:
    """Plain data as YAML inside { }."""
    is_scalar = isinstance(value, str | bool | int | float)
    return _scalar(value) if is_scalar and not (isinstance(value, str) and BREAK.search(value)) else json.dumps(value)


def _scalar(value: PlainValue) -> str:
    """A value as a YAML scalar inside { }."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if not isinstance(value, str):
        return repr(value)
    is_plain = re.fullmatch(r"\$?[A-Za-z_][\w.-]*", value, re.ASCII) and isinstance(scalar(value), str)
    return value if is_plain else '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
