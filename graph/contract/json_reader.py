"""JSON files, read strictly. Each error names the file, the line and the column.

The standard parser reads a file that has no fault. A file with a fault is read again by `_Strict`, which is slower
and knows its place in the text. Errors are: text that is not UTF-8, a byte order mark, a key that stands twice, NaN and
Infinity, numbers that a float cannot hold, NUL and lone surrogates in text, texts of more than `MAX_TEXT` characters,
and values nested more than `MAX_DEPTH` deep.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, NoReturn

from .errors import UnreadableFile
from .plain_values import MAX_TEXT, number_problem, text_problem
from .source_spans import printable

MAX_BYTES = 64 << 20
MAX_DEPTH = 100

_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_SPACE = re.compile(r"[ \t\n\r]*")
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?")
_PLAIN_TEXT = re.compile(r'[^"\\\x00-\x1f]*')
_HEX = re.compile(r"[0-9a-fA-F]{4}")
_WORD = re.compile(r"[^\s,:\[\]{}\"]+")
_ESCAPES = {'"': '"', "\\": "\\", "/": "/", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}
_WORDS = {"true": True, "false": False, "null": None}
_MARKS = ((b"\xef\xbb\xbf", "UTF-8"), (b"\xff\xfe", "UTF-16"), (b"\xfe\xff", "UTF-16"))


def read_json(path: Path, name: str | None = None, most: int = MAX_BYTES) -> Any:
    """The value in a JSON file.

    Args:
        path: The file.
        name: The path that messages show; by default `path`.
        most: The largest size in bytes.

    Raises:
        UnreadableFile: If the file cannot be opened, is too large, or is not strict JSON.
    """
    name = str(path) if name is None else name
    try:
        if path.exists() and not path.is_file():
            raise UnreadableFile(f"{name} is not a file", help="give a JSON file")
        with path.open("rb") as file:
            data = file.read(most + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UnreadableFile(f"cannot read {name}: {reason}") from error
    if len(data) > most:
        line = data.count(b"\n") + 1
        raise UnreadableFile(f"{name}:{line}:1: the file is larger than {most >> 20} MiB")
    return parse_json(data, name)


def parse_json(data: bytes, name: str, most_text: int = MAX_TEXT) -> Any:
    """The value of a JSON text.

    Args:
        data: The text in UTF-8.
        name: The file, for messages.
        most_text: The most characters of one text in it.

    Raises:
        UnreadableFile: If the text is not strict JSON.
    """
    text = _decoded(data, name)
    try:
        value = json.loads(text, object_pairs_hook=_object, parse_constant=_refused)
        if not _SURROGATE.search(text) and _is_usual(value, most_text):
            return value
    except (ValueError, RecursionError):
        pass
    return _Strict(text, name, most_text).document()


def _decoded(data: bytes, name: str) -> str:
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            reason = "begins with a byte order mark" if encoding == "UTF-8" else f"is {encoding}"
            raise UnreadableFile(f"{name}:1:1: the file {reason}", help="save it as UTF-8 without a byte order mark")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        before = data[: error.start].rpartition(b"\n")
        line, column = before[0].count(b"\n") + bool(before[1]) + 1, len(before[2].decode("utf-8")) + 1
        raise UnreadableFile(f"{name}:{line}:{column}: the file is not UTF-8", help="save it as UTF-8") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError
    return found


def _refused(word: str) -> NoReturn:
    raise ValueError(word)


def _is_usual(value: Any, most_text: int) -> bool:
    """Whether no text, number or depth in a value breaks a limit."""
    work = [(value, 0)]
    while work:
        each, depth = work.pop()
        if isinstance(each, dict):
            if depth > MAX_DEPTH or any(text_problem(key, most_text) for key in each):
                return False
            work += [(entry, depth + 1) for entry in each.values()]
        elif isinstance(each, list):
            if depth > MAX_DEPTH:
                return False
            work += [(entry, depth + 1) for entry in each]
        elif isinstance(each, str):
            if text_problem(each, most_text) is not None:
                return False
        elif isinstance(each, int | float) and number_problem(each) is not None:
            return False
    return True


class _Strict:
    """A parser that knows its place. `at` is the offset of the next character."""

    def __init__(self, text: str, name: str, most_text: int) -> None:
        self.text, self.name, self.most_text, self.at = text, name, most_text, 0

    def fail(self, message: str, at: int | None = None, help: str | None = None) -> NoReturn:
        line, column = self.place(self.at if at is None else at)
        raise UnreadableFile(f"{self.name}:{line}:{column}: {printable(message)}", help=help)

    def place(self, at: int) -> tuple[int, int]:
        return self.text.count("\n", 0, at) + 1, at - self.text.rfind("\n", 0, at)

    def space(self) -> str:
        """Skip white space; the next character, empty at the end."""
        found = _SPACE.match(self.text, self.at)
        assert found is not None
        self.at = found.end()
        return self.text[self.at : self.at + 1]

    def document(self) -> Any:
        if not self.space():
            self.fail("the file is empty")
        value = self.value(0)
        if self.space():
            self.fail("there is more text after the value")
        return value

    def value(self, depth: int) -> Any:
        character = self.space()
        if character in ("{", "["):
            if depth > MAX_DEPTH:
                self.fail(f"nested more than {MAX_DEPTH} deep")
            return self.mapping(depth) if character == "{" else self.sequence(depth)
        if character == '"':
            return self.string()
        if number := _NUMBER.match(self.text, self.at):
            return self.number(number)
        word = _WORD.match(self.text, self.at)
        if word is None:
            self.fail("a value is missing" if character else "the file ends before a value")
        if word[0] not in _WORDS:
            help = "put text in double quotes" if word[0].lstrip("-") not in ("NaN", "Infinity") else None
            self.fail(f"`{word[0][:40]}` is not JSON", help=help)
        self.at = word.end()
        return _WORDS[word[0]]

    def mapping(self, depth: int) -> dict[str, Any]:
        start = self.at
        found: dict[str, Any] = {}
        places: dict[str, int] = {}
        self.at += 1
        if self.space() == "}":
            self.at += 1
            return {}
        while True:
            at = self.at
            if self.space() != '"':
                self.unclosed(start)
                self.fail("a key in double quotes is missing")
            at, key = self.at, self.string()
            if key in places:
                line, column = self.place(places[key])
                self.fail(f"key `{key[:60]}` stands twice, first in line {line}, column {column}", at)
            places[key] = at
            if self.space() != ":":
                self.unclosed(start)
                self.fail(f"`:` is missing after key `{key[:60]}`")
            self.at += 1
            found[key] = self.value(depth + 1)
            if self.end(start, "}"):
                return found

    def sequence(self, depth: int) -> list[Any]:
        start, found = self.at, []
        self.at += 1
        if self.space() == "]":
            self.at += 1
            return []
        while True:
            found.append(self.value(depth + 1))
            if self.end(start, "]"):
                return found

    def end(self, start: int, bracket: str) -> bool:
        """Whether the object or list ends here; else skip the comma before its next entry."""
        character = self.space()
        if character not in (bracket, ","):
            self.unclosed(start)
            self.fail("a comma is missing")
        self.at += 1
        if character == "," and self.space() == bracket:
            self.fail(f"a value is missing between `,` and `{bracket}`")
        return character == bracket

    def unclosed(self, start: int) -> None:
        if self.at >= len(self.text):
            self.fail(f"`{self.text[start]}` is not closed", start, help="the file is not complete")

    def string(self) -> str:
        start, parts = self.at, []
        self.at += 1
        while True:
            plain = _PLAIN_TEXT.match(self.text, self.at)
            assert plain is not None
            parts.append(plain[0])
            self.at = plain.end()
            character = self.text[self.at : self.at + 1]
            if character == '"':
                self.at += 1
                break
            if not character:
                self.fail("a quote is not closed", start, help="the file is not complete")
            if character != "\\":
                self.fail(f"a text cannot hold the character with code {ord(character)} as it is", help="escape it")
            parts.append(self.escape())
        text = "".join(parts)
        problem = text_problem(text, self.most_text)
        if problem is not None:
            self.fail(problem, start)
        return text

    def escape(self) -> str:
        letter = self.text[self.at + 1 : self.at + 2]
        if letter in _ESCAPES:
            self.at += 2
            return _ESCAPES[letter]
        code = _HEX.match(self.text, self.at + 2) if letter == "u" else None
        if code is None:
            self.fail(f"`\\{letter}` is not an escape of JSON")
        first = int(code[0], 16)
        self.at += 6
        if 0xD800 <= first < 0xDC00 and self.text.startswith("\\u", self.at):
            other = _HEX.match(self.text, self.at + 2)
            if other is not None and 0xDC00 <= int(other[0], 16) < 0xE000:
                self.at += 6
                return chr(0x10000 + ((first - 0xD800) << 10) + int(other[0], 16) - 0xDC00)
        return chr(first)

    def number(self, found: re.Match[str]) -> int | float:
        text = found[0]
        # Python refuses to convert numbers with many more digits.
        too_long = len(text) > 400 and not found[1] and not found[2]
        value = float("inf") if too_long else int(text) if not found[1] and not found[2] else float(text)
        problem = number_problem(value)
        if problem is not None:
            self.fail(problem)
        self.at = found.end()
        if _WORD.match(self.text, self.at):
            self.fail("this is not a number of JSON")
        return value
