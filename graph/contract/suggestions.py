"""Suggestions for unknown names."""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Iterable

LIKE = 0.6
"""The least ratio of `difflib` between names that count as similar."""


def plain_letters(text: str) -> str:
    """Text with full-width characters as ASCII, and letters without accents: `steps` for `ｓtéps`."""
    parts = unicodedata.normalize("NFKD", text)
    return "".join(part for part in parts if not unicodedata.combining(part))


def similar(word: str, options: Iterable[str], most: int = 5) -> list[str]:
    """The options that are similar to `word`, the most similar first. Case, accents and widths do not matter."""
    options = list(options)
    folded = {plain_letters(option).lower(): option for option in reversed(options)}
    close = difflib.get_close_matches(plain_letters(word).lower(), list(folded), most, LIKE)
    return [folded[each] for each in close]


def suggest(word: str, options: Iterable[str]) -> str | None:
    """The option that is most similar to `word`; None if no option is similar."""
    return next(iter(similar(word, options, 1)), None)


def did_you_mean(word: str, options: Iterable[str], quote: str = "`{}`") -> str | None:
    """The help for a word that is none of the options; None if no option is similar."""
    found = suggest(word, options)
    return asked(word, found, quote) if found is not None else None


def asked(word: str, found: str, quote: str = "`{}`") -> str:
    """The question whether `found` was meant. It says if only the kind of the letters differs."""
    letters = ", in ASCII letters" if not word.isascii() and plain_letters(word) == found else ""
    return f"did you mean {quote.format(found)}{letters}?"
