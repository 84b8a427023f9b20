"""Literals: the meaning of strings, lists and command-line arguments that a user writes."""

from __future__ import annotations

import math
import os
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..contract.errors import Problems
from ..contract.ports import Type, list_of, show, type_of
from ..contract.source_spans import Source
from ..contract.suggestions import plain_letters
from ..contract.yaml_reader import Value, parse, scalar

REFERENCE = re.compile(r"\$([A-Za-z_]\w*)(?:\.([A-Za-z_]\w*))?", re.ASCII)
TOKEN = re.compile(r"\$\$|\$\{([^}]*)\}|\$(?=[A-Za-z_{])", re.ASCII)


@dataclass(frozen=True)
class Given:
    """A value from outside the file: text of the command line, or a Python value of a caller."""

    value: Any
    is_text: bool
    base: Path

    def read(self, type: Type) -> Any:
        """The value, read as `type`: text stays text for a string, and is a YAML scalar or list for other types."""
        return read_text(self.value, type) if self.is_text else self.value


def read_text(text: str, type: Type) -> Any:
    """Read command-line text as a value of `type`. Text that does not fit is returned unchanged, for the check."""
    if type.kind == "list":
        assert type.item is not None
        if text.lstrip().startswith("["):
            source = Source("<text>", None, text)
            try:
                value, problems = parse(source)
            except Problems:
                value, problems = None, []
            if value is not None and value.is_list and not problems:
                return [_entry(v, type.item, source) for v in value.data]
        elif type.item.kind not in ("str", "path") and scalar(text) is None:
            return None
        return [read_text(text, type.item)]
    if type.kind in ("str", "unknown"):
        return _decoded(text)
    if type.kind == "path":
        return text  # the system has its own name for a file
    if type.kind == "enum" and text in type.choices:
        return text
    return scalar(text)


def _decoded(text: str) -> str:
    """Text of the command line as UTF-8, if the locale of the process could not decode it."""
    try:
        text.encode("utf-8")
        return text
    except UnicodeEncodeError:
        with suppress(ValueError):
            return os.fsencode(text).decode("utf-8", "surrogateescape")
        return text


def _entry(value: Value, type: Type, source: Source) -> Any:
    """An entry of a list on the command line: `1` is text in a list of strings."""
    if type.kind not in ("str", "path") or isinstance(value.data, str | list | dict):
        return value.plain()
    return source.lines[value.span.line - 1][value.span.column - 1 : value.span.end_column - 1]


def split(text: str) -> tuple[str, str | None] | list[str | tuple[str, int]] | str:
    """Split a string of a file: a reference (name, port), a literal, or a list of text and names to interpolate.

    Each name comes with its offset in the string.

    Raises:
        ValueError: If a `$` has no meaning; the message says how to write it.
    """
    if match := REFERENCE.fullmatch(text):
        return match[1], match[2]
    if "$" not in text:
        return text
    parts: list[str | tuple[str, int]] = []
    end = 0
    literal = ""
    for token in TOKEN.finditer(text):
        literal += text[end : token.start()]
        end = token.end()
        if token[0] == "$$":
            literal += "$"
        elif token[0] == "$":
            if re.fullmatch(r"\$[\w.-]+", text):
                raise ValueError(_no_reference(text))
            word = re.match(r"\$\{?(\w*)", text[token.start() :])
            name = word[1] if word else ""
            raise ValueError(f"write ${{{name}}} to insert `{name}` into a longer string, or $$ for a dollar sign")
        else:
            parts += [literal] if literal else []
            parts.append((token[1].strip(), token.start()))
            literal = ""
    literal += text[end:]
    parts += [literal] if literal else []
    return "".join(p for p in parts if isinstance(p, str)) if all(isinstance(p, str) for p in parts) else parts


def _no_reference(text: str) -> str:
    ascii = plain_letters(text)
    if not text.isascii() and REFERENCE.fullmatch(ascii):
        return f"`{text}` is not a reference; write `{ascii}`, in ASCII letters"
    return f"`{text}` is not a reference; write $name or $name.port, in letters, digits and _"


def unescape(value: Value) -> Any:
    """Return a literal as plain data, with `$$` read as `$`.

    Raises:
        ValueError: If it is, or contains, a reference.
    """
    if isinstance(value.data, str):
        result = split(value.data)
        if not isinstance(result, str):
            raise ValueError(f"{show(value.data)} is a reference, but only a value is allowed here ($$ for a $)")
        return result
    if isinstance(value.data, list):
        return [unescape(v) for v in value.data]
    return value.plain()


def normalise(type: Type, value: Any) -> Any:
    """Convert a value that fits `type` to the form that nodes receive: a list for lists, a float for floats."""
    if value is None:
        return None
    if type.kind == "list":
        assert type.item is not None
        return [normalise(type.item, v) for v in (value if isinstance(value, list | tuple) else [value])]
    if type.kind == "float" and isinstance(value, int):
        return _float(value)
    return str(value) if isinstance(value, Path) else value


def _float(number: float) -> float:
    try:
        return float(number)
    except OverflowError:
        return math.inf if number > 0 else -math.inf


def literal_type(value: Any) -> Type:
    """The type of a literal; an empty list is a list of anything."""
    return list_of(Type("unknown")) if value == [] else type_of(value)
