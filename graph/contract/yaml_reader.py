"""A YAML 1.2 tree in which every value has its place in the file.

PyYAML supplies the events. This module builds the tree, because a workflow file is data (no tags, no merge keys, no
Python objects), its scalars follow YAML 1.2, and each problem needs a position.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from .diagnostics import Diagnostic, Related
from .errors import Problems
from .plain_values import MAX_TEXT, number_problem, text_problem
from .source_spans import BREAK, Source, Span
from .wide_characters import WIDE, wide_colon, wide_colon_problem

MAX_BYTES = MAX_TEXT
MAX_DEPTH = 50
MAX_VALUES = 50_000

SURROGATE = re.compile("[\ud800-\udfff]")
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True)
class Value:
    """A YAML value with its place: `data` is a scalar, a list of `Value`, or a dict of key to `Value`.

    For a mapping, `keys` holds the place of each key.
    """

    data: Any
    span: Span
    keys: dict[str, Span] = field(default_factory=dict)

    @property
    def is_map(self) -> bool:
        return isinstance(self.data, dict)

    @property
    def is_list(self) -> bool:
        return isinstance(self.data, list)

    def plain(self) -> Any:
        """The value without places."""
        if isinstance(self.data, dict):
            return {k: v.plain() for k, v in self.data.items()}
        if isinstance(self.data, list):
            return [v.plain() for v in self.data]
        return self.data


# The core schema of YAML 1.2.2, section 10.3.2.
_NULL = re.compile(r"null|Null|NULL|~|")
_TRUE, _FALSE = re.compile(r"true|True|TRUE"), re.compile(r"false|False|FALSE")
_INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_INF, _NAN = re.compile(r"([-+]?)\.(inf|Inf|INF)"), re.compile(r"\.(nan|NaN|NAN)")


def scalar(text: str) -> Any:
    """Read a plain scalar by the rules of YAML 1.2: `1e-3` is a number, `on` and `no` are strings."""
    if _NULL.fullmatch(text):
        return None
    if _TRUE.fullmatch(text):
        return True
    if _FALSE.fullmatch(text):
        return False
    if _INT.fullmatch(text):
        base = {"0o": 8, "0x": 16}.get(text[:2], 10)
        # Python refuses to convert numbers with many more digits; no parameter is that large.
        return int(text, base) if len(text) < 400 else text
    if _FLOAT.fullmatch(text):
        return float(text)
    if match := _INF.fullmatch(text):
        return float(match[1] + "inf")
    return float("nan") if _NAN.fullmatch(text) else text


class _Reader:
    def __init__(self, source: Source) -> None:
        self.source = source
        self.problems: list[Diagnostic] = []
        self.anchors: dict[str, tuple[Value, int, int]] = {}
        self.count = self.deepest = 0
        self.events = iter(yaml.parse(source.text, Loader=LOADER))

    def span(self, start: Any, end: Any) -> Span:
        return Span(self.source.name, start.line + 1, start.column + 1, end.line + 1, end.column + 1)

    def fail(self, message: str, span: Span, help: str | None = None) -> None:
        raise Problems([*self.problems, Diagnostic("yaml-syntax", message, span, help=help)])

    def document(self) -> Value | None:
        next(self.events)  # StreamStart
        event = next(self.events)
        if isinstance(event, yaml.StreamEndEvent):
            return None
        value = self.value(next(self.events), 0)
        next(self.events)  # DocumentEnd
        event = next(self.events)
        if not isinstance(event, yaml.StreamEndEvent):
            self.fail("a workflow file is one YAML document", self.span(event.start_mark, event.end_mark))
        return value

    def value(self, event: Any, depth: int) -> Value:
        place = self.span(event.start_mark, event.end_mark)
        before, self.count = self.count, self.count + 1
        around, self.deepest = self.deepest, depth
        if depth > MAX_DEPTH:
            self.fail(f"nested more than {MAX_DEPTH} deep", place)
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in self.anchors:
                self.fail(f"alias *{event.anchor} has no anchor before it", place)
            target, size, height = self.anchors[str(event.anchor)]
            self.count += size
            self.deepest = max(around, depth + height)
            if self.deepest > MAX_DEPTH:
                self.fail(f"nested more than {MAX_DEPTH} deep", place)
            if self.count > MAX_VALUES:
                self.fail(f"aliases expand to more than {MAX_VALUES} values", place)
            return Value(target.data, place, target.keys)
        if event.tag is not None and event.tag != "!":
            tag = event.tag.replace("tag:yaml.org,2002:", "!!")
            self.fail(f"tag {tag}: a workflow file has no tags", place, "remove the tag")
        if isinstance(event, yaml.ScalarEvent):
            result = self.scalar(event, place)
        elif isinstance(event, yaml.SequenceStartEvent):
            result = self.sequence(event, depth)
        else:
            result = self.mapping(event, depth)
        if self.count > MAX_VALUES:
            self.fail(f"more than {MAX_VALUES} values", place)
        if event.anchor is not None:
            self.anchors[event.anchor] = (result, self.count - before, self.deepest - depth)
        self.deepest = max(around, self.deepest)
        return result

    def scalar(self, event: Any, place: Span) -> Value:
        """A text, a number, true, false or null."""
        text = event.value
        value = scalar(text) if event.implicit[0] else text
        problem = None
        if isinstance(value, str):
            # `scalar` leaves a whole number of very many digits a text.
            too_long = event.implicit[0] and _INT.fullmatch(text) is not None
            problem = number_problem(float("inf")) if too_long else text_problem(text)
        elif isinstance(value, int | float) and not _INF.fullmatch(text):
            problem = number_problem(value)
        if problem is not None:
            self.fail(problem, place)
        return Value(value, place)

    def sequence(self, start: Any, depth: int) -> Value:
        items: list[Value] = []
        while not isinstance(event := next(self.events), yaml.SequenceEndEvent):
            items.append(self.value(event, depth + 1))
        return Value(items, self.span(start.start_mark, event.end_mark))

    def mapping(self, start: Any, depth: int) -> Value:
        entries: dict[str, Value] = {}
        keys: dict[str, Span] = {}
        while not isinstance(event := next(self.events), yaml.MappingEndEvent):
            key = self.value(event, depth + 1)
            value = self.value(next(self.events), depth + 1)
            if key.is_map or key.is_list:
                self.problems.append(Diagnostic("yaml-syntax", "a key must be a plain name", key.span))
                continue
            name = key.data if isinstance(key.data, str) else self.text(key.span)
            joined = wide_colon(self.text(key.span)) if value.data is None else None
            if joined is not None:  # `{width： 96}` is a key without a value
                self.problems.append(wide_colon_problem(joined[0], key.span))
                name, value = joined[0], Value(scalar(joined[1]), key.span)
            if name == "<<":
                help = "write the keys out, or give the whole value an anchor and an alias"
                message = "merge keys (<<) are not part of YAML 1.2"
                self.problems.append(Diagnostic("yaml-syntax", message, key.span, help=help))
            elif name in entries:
                first = Related("first here", keys[name])
                self.problems.append(
                    Diagnostic("duplicate-key", f"key `{name}` stands twice", key.span, related=(first,))
                )
            else:
                entries[name], keys[name] = value, key.span
        return Value(entries, self.span(start.start_mark, event.end_mark), keys)

    def text(self, span: Span) -> str:
        return self.source.lines[span.line - 1][span.column - 1 : span.end_column - 1]


def parse(source: Source) -> tuple[Value | None, list[Diagnostic]]:
    """Parse a file into a tree of values with places (None if empty), and the problems that do not stop the parser.

    Raises:
        Problems: If the text is not YAML, or not the YAML of a workflow file.
    """
    half = SURROGATE.search(source.text)  # the parser's C library cannot take one
    if half is not None:
        before = BREAK.split(source.text[: half.start()])
        problem = text_problem(half[0])
        assert problem is not None
        raise Problems([Diagnostic("yaml-syntax", problem, _point(source, len(before) - 1, len(before[-1])))])
    try:
        reader = _Reader(source)
        return reader.document(), reader.problems
    except yaml.MarkedYAMLError as error:
        raise Problems([_syntax(source, error)]) from None
    except (ValueError, OverflowError):  # of the parser without the C library, for an escape beyond Unicode
        beyond = re.search(r"\\U(?!00(?:0|10))", source.text)
        before = BREAK.split(source.text[: beyond.start()] if beyond is not None else "")
        place = _point(source, len(before) - 1, len(before[-1]))
        raise Problems([Diagnostic("yaml-syntax", "an escape that is no character of Unicode", place)]) from None
    except yaml.YAMLError as error:
        message = str(getattr(error, "reason", None) or error).split("\n")[0]
        position = getattr(error, "position", None)
        place = None
        if isinstance(position, int):
            before = BREAK.split(source.text[:position])
            place = _point(source, len(before) - 1, len(before[-1]))
        raise Problems([Diagnostic("yaml-syntax", message, place)]) from None


def _point(source: Source, line: int, column: int) -> Span:
    return Span(source.name, line + 1, column + 1, line + 1, column + 2)


def _syntax(source: Source, error: yaml.MarkedYAMLError) -> Diagnostic:
    """Turn an error of PyYAML's parser into a diagnostic for readers who do not know the grammar of YAML."""
    problem, context = error.problem_mark, error.context_mark
    mark = problem or context
    span = _point(source, mark.line, mark.column) if mark else Span(source.name, 1, 1, 1, 2)
    line = source.lines[span.line - 1] if span.line <= len(source.lines) else ""
    character = line[span.column - 1 : span.column]
    message = " ".join(str(error.problem or error.context or "not YAML").split())
    opened = _point(source, context.line, context.column) if context else None
    related: tuple[Related, ...] = ()
    if problem and context and context.line != problem.line:
        related = (Related(error.context or "began here", _point(source, context.line, context.column)),)
    help = None
    if "nesting depth" in message:  # the limit of PyYAML 6.0.4 and newer is 1000
        message = f"nested more than {MAX_DEPTH} deep"
    if "cannot start any token" in message:
        message = "a tab cannot indent" if character == "\t" else f"text cannot begin with `{character}`"
        help = "indent with spaces" if character == "\t" else "put the text in quotes"
    elif "mapping values are not allowed" in message:
        message = "unexpected `:`"
        help = "put text that contains `: ` in quotes, or check the indentation"
    elif opened and not "".join(source.lines[span.line - 1 :]).strip() and "flow" in str(error.context):
        last = max((n for n, text in enumerate(source.lines) if text.strip()), default=0)
        if opened.line - 1 > last:
            opened = _point(source, last, len(source.lines[last].rstrip()) - 1)
        bracket = source.lines[opened.line - 1][opened.column - 1 : opened.column]
        what = f"`{bracket}`" if bracket in ("{", "[") else "a bracket"
        return Diagnostic("yaml-syntax", f"{what} is not closed", opened, help="close it before the file ends")
    elif "end of stream" in message and opened:
        return Diagnostic("yaml-syntax", "a quote is not closed", opened)
    elif "expected ','" in message:
        words = "put text with ${…} inside { } or [ ] in quotes"
        help = words if "${" in line[: span.column + 1] else "is a comma or a quote missing?"
    elif "expected key" in message or "expected <block end>" in message or "block collection" in message:
        help = "indent this line like its neighbours"
    elif "expected ':'" in message:
        help = "a name is followed by `: ` and its value"
    around = line + "".join(source.lines[max(0, span.line - 2) : span.line - 1])
    wide = next((character for character in around if character in WIDE), None)
    if wide is not None:
        help = f"write `{WIDE[wide]}` for `{wide}`" + (f", or: {help}" if help else "")
    return Diagnostic("yaml-syntax", message, span, related=related, help=help)


def read(path: Path, name: str | None = None) -> Source:
    """Read a workflow file.

    Raises:
        Problems: If the file cannot be read, is not UTF-8, or is larger than `MAX_BYTES`.
    """
    name = str(path) if name is None else name
    try:
        with path.open("rb") as file:
            # A pipe or a device has no size, and may have no end.
            data = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise Problems([Diagnostic("yaml-syntax", f"cannot read {name}: {reason}")]) from None
    if len(data) > MAX_BYTES:
        message = f"{name} is larger than {MAX_BYTES >> 20} MiB, too large for a workflow"
        line = data.count(b"\n", 0, MAX_BYTES) + 1  # the line in which the limit lies
        raise Problems([Diagnostic("yaml-syntax", message, Span(name, line, 1, line, 2))])
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        help = "save it as UTF-8"
        raise Problems([Diagnostic("yaml-syntax", f"{name} is UTF-16, not UTF-8", Span(name, 1, 1, 1, 2), help=help)])
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        column = error.start - (data.rfind(b"\n", 0, error.start) + 1) + 1
        place = Span(name, line, column, line, column + 1)
        help = "a workflow is a text file in UTF-8"
        raise Problems([Diagnostic("yaml-syntax", f"{name} is not UTF-8", place, help=help)]) from None
    return Source(name, path, text)
