"""Problems of a workflow file or a command line, with their places, and how they are printed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from .source_spans import Source, Span, printable


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
