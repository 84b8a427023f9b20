"""Full-width characters that some keyboards write for those of YAML, and names that are followed by such a colon."""

from __future__ import annotations

import re

from .diagnostics import Diagnostic
from .source_spans import Span

WIDE = dict(zip("：，｛｝［］＂“”＃", ':,{}[]"""#', strict=True))
"""Characters that some keyboards write for those of YAML."""

_NAMED = re.compile(r"(\w+)\s*：\s*(.*)", re.ASCII | re.DOTALL)


def wide_colon(text: str) -> tuple[str, str] | None:
    """The name and the value of `name： value`; None for any other text."""
    match = _NAMED.fullmatch(text)
    return (match[1], match[2]) if match is not None else None


def wide_colon_problem(name: str, place: Span) -> Diagnostic:
    """The problem of a `：` after a name, at the place of both."""
    message = f"`：` after `{name}` is a full-width colon, which YAML reads as text"
    return Diagnostic("yaml-syntax", message, place, help="write `:` for `：`, and a space after it")
