"""`Diagnostic`, the one value for a problem, and its form on the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from .source_spans import Source, Span
from .terminal_text import printable


@dataclass(frozen=True)
class Related:
    """Another place that belongs to a diagnostic, such as the other end of an edge."""

    message: str
    span: Span


@dataclass(frozen=True)
class Diagnostic:
    """One problem.

    Attributes:
        code: The kind of problem; docs/reference lists all codes.
        message: The problem in one sentence.
        place: A span of a workflow file; the name of a parameter, until the compiler finds its span; None for a problem
            of the command line.
        label: Text under the span.
        related: Other places that belong to the problem.
        help: How the user can solve it.
        severity: A warning does not stop a run.
    """

    code: str
    message: str
    place: Span | str | None = None
    label: str = ""
    related: tuple[Related, ...] = ()
    help: str | None = None
    severity: Literal["error", "warning"] = "error"

    @property
    def span(self) -> Span | None:
        """The place in a workflow file; None if it is not known."""
        return self.place if isinstance(self.place, Span) else None

    @property
    def parameter(self) -> str | None:
        """Name of the parameter that has the problem. It is None after the compiler has replaced it by its span."""
        return self.place if isinstance(self.place, str) else None

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


def render(diagnostics: Iterable[Diagnostic], sources: dict[str, Source]) -> str:
    """Diagnostics as text, each with a code frame if its file is in `sources`."""
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
        first, *others = printable(d.help).split("\n")
        yield f"{gutter} = help: {first}"
        yield from (f"{gutter}         {line}" for line in others)
    yield ""
