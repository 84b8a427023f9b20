"""Text with positions: spans, diagnostics with code frames, did-you-mean."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

MAX_BYTES = 1 << 20

# The line breaks of YAML, not those of str.splitlines (form feeds, separators).
BREAK = re.compile("\r\n|[\r\n\x85\u2028\u2029]")


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
        self.lines = BREAK.split(self.text)

    def frame(self, span: Span, label: str = "", digits: int = 1) -> list[str]:
        """The line a span begins in, its number `digits` wide, and carets under it. Tabs count as one column."""
        line = self.lines[span.line - 1] if 0 < span.line <= len(self.lines) else ""
        start = span.column - 1
        end = span.end_column - 1 if span.end_line == span.line else len(line.rstrip())
        end = max(end, start + 1)
        shown = printable(line.replace("\t", " "))
        if len(shown) > 160:
            cut = max(0, min(start - 60, len(shown) - 160))
            more = cut + 160 < len(shown)
            shown = ("…" if cut else "") + shown[cut : cut + 160] + ("…" if more else "")
            start, end = start - cut + bool(cut), min(end - cut + bool(cut), len(shown))
        caret = "^" * max(1, width(shown[start:end]))
        gutter = " " * digits
        under = f"{gutter} | {' ' * width(shown[:start])}{' ' * (start - len(shown))}{caret}"
        return [f"{gutter} |", f"{span.line:<{digits}} | {shown}".rstrip(), f"{under} {label}" if label else under]


def width(text: str) -> int:
    """How many columns of a terminal a text takes: wide characters two, combining ones none."""
    wide = sum(unicodedata.east_asian_width(c) in "WF" for c in text)
    return len(text) + wide - sum(unicodedata.combining(c) != 0 for c in text)


def printable(text: str) -> str:
    """Text without what would move the cursor or colour the screen; a file must not talk to the terminal."""
    return re.sub(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", "\ufffd", text)


def read(path: Path, name: str | None = None) -> Source:
    """Read a workflow file.

    Raises:
        Problems: If it cannot be read, is not UTF-8, or is larger than a workflow file can be.
    """
    name = str(path) if name is None else name
    try:
        with path.open("rb") as file:
            # What is no ordinary file has no size, and may have no end.
            data = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise Problems([Diagnostic("yaml-syntax", f"cannot read {name}: {reason}")]) from None
    if len(data) > MAX_BYTES:
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
    yield f"{d.severity}[{d.code}]: {printable(d.message)}"
    places = ([(d.span, d.label)] if d.span else []) + [(r.span, r.message) for r in d.related]
    digits = max((len(str(span.line)) for span, _ in places), default=0)
    gutter = " " * digits
    for number, (span, label) in enumerate(places):
        source = sources.get(span.file)
        yield f"{gutter}{'-->' if number == 0 else ':::'} {printable(span.file)}:{span.line}:{span.column}"
        if source is not None:
            yield from source.frame(span, printable(label), digits)
    if d.help:
        yield f"{gutter} = help: {printable(d.help)}"
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
