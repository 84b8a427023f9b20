"""Suggestions for unknown names."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def suggest(word: str, options: Iterable[str]) -> str | None:
    """The option that is most similar to `word`; None if no option is similar."""
    options = list(options)
    lowered = {o.lower(): o for o in reversed(options)}
    close = difflib.get_close_matches(word.lower(), list(lowered), 1, 0.6)
    return lowered[close[0]] if close else None


def did_you_mean(word: str, options: Iterable[str], quote: str = "`{}`") -> str | None:
    found = suggest(word, options)
    return f"did you mean {quote.format(found)}?" if found is not None else None
