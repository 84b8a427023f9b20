"""Text with positions: spans, and code frames around them."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass, field
from pathlib import Path

from .terminal_text import printable

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


@dataclass
class Source:
    """A file's text, kept for code frames. `name` is the path as the user wrote it, `path` the path to open."""

    name: str
    path: Path | None
    text: str
    lines: list[str] = field(init=False)

    def __post_init__(self) -> None:
        self.lines = BREAK.split(self.text)

    def frame(self, span: Span, label: str = "", digits: int = 1) -> list[str]:
        """Draw the first line of a span and carets under it.

        The line number has the width `digits`. A tab is one column.
        """
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
    """The columns of a text on a terminal: two for a wide character, none for a combining one."""
    wide = sum(unicodedata.east_asian_width(c) in "WF" for c in text)
    return len(text) + wide - sum(unicodedata.combining(c) != 0 for c in text)
