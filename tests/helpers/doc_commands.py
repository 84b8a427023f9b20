"""The command lines and the files of a page of documentation, read from its Markdown.

- A block ```` ```sh ```` holds commands, one on each line; `&&`, `>` and a backslash at the end of a line work as in
  a shell.
- A block ```` ```console ```` holds commands behind `$ `, and below each the output that it prints.
- `sgd …` in backticks inside a sentence is a command too.
- A block whose fence names a file (```` ```yaml mine.yaml ````) is the content of that file.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^([ ]*)```(\w*)(?: +(\S+))?\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`(sgd [^`]+)`")
PLACEHOLDER = re.compile(r"…|^(?:[A-Z][A-Z_.]*|name=value|path=value)$|^<.*>$|=…")
"""A placeholder, e.g. FILE. A command with a placeholder is parsed but not run."""


@dataclass(frozen=True)
class File:
    """A file that a page shows."""

    name: str
    text: str


@dataclass(frozen=True)
class Command:
    """A command line of a page.

    Attributes:
        words: The words, with the program's name first.
        inline: True for a command inside a sentence.
        output: The output that the page shows, None if it shows none.
    """

    words: tuple[str, ...]
    inline: bool = field(default=False, compare=False)
    output: str | None = field(default=None, compare=False)

    @property
    def is_name(self) -> bool:
        """True for a command in a sentence that has a name and perhaps options, but no arguments."""
        return self.inline and all(word.startswith("-") for word in self.words[2:])

    @property
    def is_complete(self) -> bool:
        """True if the command can run as it is written: no word is a placeholder."""
        return not any(map(PLACEHOLDER.search, self.words)) and not self.is_name

    def __str__(self) -> str:
        return shlex.join(self.words)


def read(text: str) -> Iterator[File | Command]:
    """Files and commands of a page, in order."""
    end = 0
    for block in BLOCK.finditer(text):
        yield from _inline(text[end : block.start()])
        end = block.end()
        indent, language, name, body = block[1], block[2], block[3], block[4]
        body = re.sub(rf"^{indent}", "", body, flags=re.MULTILINE)
        if name:
            yield File(name, body)
        elif language == "sh":
            for line in body.replace("\\\n", " ").splitlines():
                yield from map(Command, _words(line))
        elif language == "console":
            yield from _console(body)
    yield from _inline(text[end:])


def _inline(text: str) -> Iterator[Command]:
    for line in INLINE.findall(text):
        for words in _words(" ".join(line.split())):
            yield Command(tuple(word for word in words if word != "…"), inline=True)


def _console(body: str) -> Iterator[Command]:
    for part in re.split(r"^\$ ", body, flags=re.MULTILINE)[1:]:
        line, _, output = part.partition("\n")
        (words,) = _words(line)
        yield Command(words, output=output.rstrip() or None)


def _words(line: str) -> Iterator[tuple[str, ...]]:
    words: list[str] = []
    for word in [*shlex.split(line, comments=True), "&&"]:
        if word != "&&":
            words.append(word)
        elif words:
            kept = words[: words.index(">")] if ">" in words else words
            yield (Path(kept[0]).name, *kept[1:])
            words = []


def needs(command: Command) -> str | None:
    """The resource that a command needs and a test does not have: `GPU` or `hub`; None if the command can run."""
    if any(word.partition(":")[0] == "cuda" for word in command.words):
        return "GPU"
    if command.words[1] in ("exec", "calibrate"):
        bundled = ROOT / "workflows" / f"{command.words[2]}.yaml"
        sources = _sources(yaml.safe_load(bundled.read_text(encoding="utf-8"))) if bundled.is_file() else []
        if any(re.fullmatch(r"[\w-]+/[\w.-]+", source) for source in sources):
            return "hub"
    return None


def _sources(value: object) -> Iterator[str]:
    """Every `source` of a workflow file."""
    if isinstance(value, dict):
        if isinstance(value.get("source"), str):
            yield value["source"]
        for each in value.values():
            yield from _sources(each)
