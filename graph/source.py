"""Text with positions: spans, diagnostics with code frames, and a YAML 1.2 tree in which every value knows its place.

PyYAML supplies the event stream; the tree is ours, because a workflow file is data (no tags, no merge keys, no
Python objects), its scalars follow YAML 1.2, and every problem in it must be reported with its position.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

MAX_BYTES = 1 << 20
MAX_DEPTH = 50
MAX_VALUES = 50_000

LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True)
class Span:
    """A stretch of a file. Lines and columns count from 1; the end is exclusive."""

    file: str
    line: int
    column: int
    end_line: int
    end_column: int


@dataclass(frozen=True)
class Related:
    """Another place that belongs to a diagnostic, such as the other end of an edge."""

    message: str
    span: Span


@dataclass(frozen=True)
class Diagnostic:
    """One problem in a workflow file or on the command line (then without a span)."""

    code: str
    message: str
    span: Span | None = None
    label: str = ""
    related: tuple[Related, ...] = ()
    help: str | None = None
    severity: Literal["error", "warning"] = "error"

    def json(self) -> dict[str, Any]:
        """The diagnostic as the plain object that `--json` prints."""
        return {
            "code": self.code,
            "severity": self.severity,
            "message": self.message,
            **_place(self.span),
            "related": [{"message": r.message, **_place(r.span)} for r in self.related],
            "help": self.help,
        }


def _place(span: Span | None) -> dict[str, Any]:
    if span is None:
        return dict.fromkeys(("file", "line", "column", "end_line", "end_column"))
    return {
        "file": span.file,
        "line": span.line,
        "column": span.column,
        "end_line": span.end_line,
        "end_column": span.end_column,
    }


class Problems(Exception):
    """Raised where nothing more can be checked; carries every diagnostic found."""

    def __init__(self, diagnostics: Iterable[Diagnostic]) -> None:
        self.diagnostics = list(diagnostics)
        super().__init__("; ".join(f"{d.code}: {d.message}" for d in self.diagnostics))


@dataclass
class Source:
    """A file's text, kept for code frames. `name` is the path as the user wrote it, `path` where it is."""

    name: str
    path: Path | None
    text: str
    lines: list[str] = field(init=False)

    def __post_init__(self) -> None:
        # The line breaks of YAML, not those of str.splitlines (form feeds, separators).
        self.lines = re.split(r"\r\n|\r|\n|\x85|\u2028|\u2029", self.text)

    def frame(self, span: Span, label: str = "") -> list[str]:
        """The line a span begins in, with a caret line under it. Tabs count as one column."""
        line = self.lines[span.line - 1] if 0 < span.line <= len(self.lines) else ""
        start = span.column - 1
        end = span.end_column - 1 if span.end_line == span.line else len(line.rstrip())
        shown, caret = line.replace("\t", " "), "^" * max(1, end - start)
        if len(shown) > 160:
            cut = max(0, min(start - 60, len(shown) - 160))
            shown, start = ("…" if cut else "") + shown[cut : cut + 160] + "…", start - cut + bool(cut)
            caret = caret[: max(1, 161 - start)]
        gutter = " " * len(str(span.line))
        under = f"{gutter} | {' ' * start}{caret}"
        return [f"{gutter} |", f"{span.line} | {shown}".rstrip(), f"{under} {label}" if label else under]


def read(path: Path, name: str | None = None) -> Source:
    """Read a workflow file.

    Raises:
        Problems: If it cannot be read, is not UTF-8, or is larger than a workflow file can be.
    """
    name = str(path) if name is None else name
    try:
        data = path.read_bytes() if path.stat().st_size <= MAX_BYTES else None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise Problems([Diagnostic("yaml-syntax", f"cannot read {name}: {reason}")]) from None
    if data is None:
        raise Problems(
            [Diagnostic("yaml-syntax", f"{name} is larger than {MAX_BYTES >> 20} MiB, too large for a workflow")]
        )
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        column = error.start - (data.rfind(b"\n", 0, error.start) + 1) + 1
        place = Span(name, line, column, line, column + 1)
        raise Problems([Diagnostic("yaml-syntax", f"{name} is not UTF-8", place)]) from None
    return Source(name, path, text)


def render(diagnostics: Iterable[Diagnostic], sources: dict[str, Source]) -> str:
    """Diagnostics as text, each with a frame where its file is known."""
    return "\n".join("\n".join(_render(d, sources)) for d in diagnostics)


def _render(d: Diagnostic, sources: dict[str, Source]) -> Iterator[str]:
    yield f"{d.severity}[{d.code}]: {d.message}"
    gutter = ""
    places = [(d.span, d.label)] if d.span else []
    for number, (span, label) in enumerate(places + [(r.span, r.message) for r in d.related]):
        source = sources.get(span.file)
        gutter = " " * len(str(span.line))
        yield f"{gutter}{'-->' if number == 0 else ':::'} {span.file}:{span.line}:{span.column}"
        if source is not None:
            yield from source.frame(span, label)
    if d.help:
        yield f"{gutter} = help: {d.help}"
    yield ""


def suggest(word: str, options: Iterable[str]) -> str | None:
    """The option most like `word`, None if none is."""
    options = list(options)
    lowered = {o.lower(): o for o in reversed(options)}
    close = difflib.get_close_matches(word.lower(), list(lowered), 1, 0.6)
    return lowered[close[0]] if close else None


def did_you_mean(word: str, options: Iterable[str], quote: str = "`{}`") -> str | None:
    found = suggest(word, options)
    return f"did you mean {quote.format(found)}?" if found is not None else None


@dataclass(frozen=True)
class Value:
    """A YAML value with its place: `data` is a scalar, a list of `Value`, or a dict of key to `Value`.

    `keys` holds, for a mapping, where each key stands.
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
    """A plain scalar's value by YAML 1.2: `1e-3` is a number, `on` and `no` are strings."""
    if _NULL.fullmatch(text):
        return None
    if _TRUE.fullmatch(text):
        return True
    if _FALSE.fullmatch(text):
        return False
    if _INT.fullmatch(text):
        base = {"0o": 8, "0x": 16}.get(text[:2], 10)
        # Python refuses to convert more digits than this; no parameter is that large.
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
        self.anchors: dict[str, tuple[Value, int]] = {}
        self.count = 0
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
        if depth > MAX_DEPTH:
            self.fail(f"nested more than {MAX_DEPTH} deep", place)
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in self.anchors:
                self.fail(f"alias *{event.anchor} has no anchor before it", place)
            target, size = self.anchors[str(event.anchor)]
            self.count += size
            if self.count > MAX_VALUES:
                self.fail(f"aliases expand to more than {MAX_VALUES} values", place)
            return Value(target.data, place, target.keys)
        if event.tag is not None and event.tag != "!":
            self.fail(f"tag {event.tag}: a workflow file has no tags", place, "remove the tag")
        if isinstance(event, yaml.ScalarEvent):
            result = Value(scalar(event.value) if event.implicit[0] else event.value, place)
        elif isinstance(event, yaml.SequenceStartEvent):
            result = self.sequence(event, depth)
        else:
            result = self.mapping(event, depth)
        if self.count > MAX_VALUES:
            self.fail(f"more than {MAX_VALUES} values", place)
        if event.anchor is not None:
            self.anchors[event.anchor] = (result, self.count - before)
        return result

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
            if name == "<<":
                self.problems.append(Diagnostic("yaml-syntax", "merge keys (<<) are not part of YAML 1.2", key.span))
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
    """Parse a file into a tree of values with places, None if it is empty, and the problems that do not stop it.

    Raises:
        Problems: If the text is not YAML, or not the YAML of a workflow file.
    """
    try:
        reader = _Reader(source)
        return reader.document(), reader.problems
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        related: tuple[Related, ...] = ()
        if error.context_mark and error.problem_mark and error.context_mark.line != error.problem_mark.line:
            m = error.context_mark
            place = Span(source.name, m.line + 1, m.column + 1, m.line + 1, m.column + 2)
            related = (Related(error.context or "began here", place),)
        message = " ".join(str(error.problem or error.context or "not YAML").split())
        span = Span(source.name, line, column, line, column + 1)
        raise Problems([Diagnostic("yaml-syntax", message, span, related=related)]) from None
    except yaml.YAMLError as error:
        message = str(getattr(error, "reason", None) or error).split("\n")[0]
        position = getattr(error, "position", None)
        place = None
        if isinstance(position, int):
            before = source.text[:position]
            line, column = before.count("\n") + 1, position - (before.rfind("\n") + 1) + 1
            place = Span(source.name, line, column, line, column + 1)
        raise Problems([Diagnostic("yaml-syntax", message, place)]) from None
