"""Limits that hold for every text and number from outside: files, the command line, values of a Python caller."""

from __future__ import annotations

import math
import re
import sys

MAX_TEXT = 1 << 20
"""The most characters of one text."""

_UNUSABLE = re.compile("[\x00\ud800-\udfff]")


def text_problem(text: str, most: int = MAX_TEXT) -> str | None:
    """The problem with a text of more than `most` characters, or with NUL or lone surrogates; None if there is none."""
    if len(text) > most:
        return f"a text of {len(text)} characters is too long: at most {most} are allowed"
    found = _UNUSABLE.search(text)
    if found is None:
        return None
    if found[0] == "\0":
        return "a text cannot hold the character NUL (code 0)"
    return f"a text cannot hold half of a character (the lone surrogate {ord(found[0]):04X}, in hexadecimal)"


def number_problem(number: int | float) -> str | None:
    """The problem with a number that a float cannot hold; None if there is none. NaN has no problem here."""
    if isinstance(number, float):
        return None if not math.isinf(number) else f"the number is too large: the largest is {sys.float_info.max:.2g}"
    if abs(number) <= sys.float_info.max:
        return None
    return f"the number is too large: the largest is {sys.float_info.max:.2g}"
