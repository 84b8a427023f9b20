"""The grammar of `--vary NAME=V,V…` and `--reference NAME=V`. Nothing is looked up in the workflow here."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...contract.errors import NodeError, Problems
from ...contract.source_spans import Source
from ...contract.text_tables import shortened
from ...contract.yaml_reader import Value, parse, scalar

MOST_COMBINATIONS = 1000
"""More combinations than this are an error: they are a mistake more often than a wish."""

RANGE = re.compile(r"(-?\d+):(-?\d+)", re.ASCII)
FORM = "NAME=V,V…, NAME=0:3, NAME=@FILE or 'NODE={uses: …}'"


@dataclass(frozen=True)
class Variation:
    """A name and the values that it takes.

    Attributes:
        name: An input, the path of a parameter, or the path of a node.
        values: Its values, as text of the command line. That of a node is a YAML mapping in braces.
        whole_nodes: Whether the values are whole nodes.
    """

    name: str
    values: tuple[str, ...]
    whole_nodes: bool = False

    @property
    def is_path(self) -> bool:
        """Whether the name is the path of a parameter, as for `--set`."""
        return "." in self.name and not self.whole_nodes


@dataclass(frozen=True)
class Fixed:
    """The value of a varied name in the runs that the others are compared with."""

    name: str
    value: str


def variations(words: Sequence[str]) -> tuple[Variation, ...]:
    """Read all `--vary`. Whole nodes of one name may come in several of them.

    Raises:
        NodeError: For a word of another form, a range or list without values, an unreadable file, a name or a value
            that is given twice, or more combinations than `MOST_COMBINATIONS`.
    """
    found: dict[str, Variation] = {}
    for word in words:
        made = _variation(word)
        before = found.get(made.name)
        if before is not None:
            if not (before.whole_nodes and made.whole_nodes):
                raise NodeError(
                    f"--vary {made.name} is given twice",
                    help=f"write all its values in one: --vary {made.name}={before.values[0]},…",
                )
            made = Variation(made.name, before.values + made.values, True)
        _different(made)
        found[made.name] = made
    number = 1
    for made in found.values():
        number *= len(made.values)
    if number > MOST_COMBINATIONS:
        sizes = " x ".join(f"{len(made.values)} of {made.name}" for made in found.values())
        raise NodeError(
            f"{number} combinations are too many: {sizes}",
            help=f"at most {MOST_COMBINATIONS} are possible; vary fewer values, or make several sweeps",
        )
    return tuple(found.values())


def fixed(words: Sequence[str], varied: Sequence[Variation]) -> tuple[Fixed, ...]:
    """Read all `--reference`: each is one of the values of a varied name.

    Raises:
        NodeError: If a word is no `NAME=V`, the name does not vary or is given twice, or the value is none of its own.
    """
    found: dict[str, Fixed] = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not equals or not name:
            raise NodeError(f"--reference {word!r} is not NAME=V", help="write --reference NAME=V, such as cache=0")
        variation = next((each for each in varied if each.name == name), None)
        if variation is None:
            names = ", ".join(each.name for each in varied)
            raise NodeError(f"--reference {name}: `{name}` does not vary", help=f"varied names: {names}")
        if name in found:
            raise NodeError(f"--reference {name} is given twice", help="leave one of them out")
        wanted = _meaning(text.strip())
        value = next((each for each in variation.values if _meaning(each) == wanted), None)
        if value is None:
            values = ", ".join(shortened(each, 40) for each in variation.values[:8])
            raise NodeError(
                f"--reference {name}={shortened(text, 60)}: `{name}` does not take this value",
                help=f"add the value to --vary {name}=…, or choose one of {values}",
            )
        found[name] = Fixed(name, value)
    return tuple(found.values())


def _variation(word: str) -> Variation:
    name, equals, text = word.partition("=")
    name, text = name.strip(), text.strip()
    if not equals or not name:
        raise NodeError(f"--vary {word!r} has no value", help=f"write {FORM}")
    if text.startswith(("[", "{")):
        return _of_yaml(name, text)
    if text.startswith("@"):
        return Variation(name, _lines(name, text[1:]))
    if match := RANGE.fullmatch(text):
        first, end = int(match[1]), int(match[2])
        if end <= first:
            raise NodeError(
                f"--vary {name}={text} has no values", help="a range ends before its second number: 0:3 is 0, 1, 2"
            )
        if end - first > MOST_COMBINATIONS:
            raise NodeError(
                f"--vary {name}={text} has {end - first} values", help=f"at most {MOST_COMBINATIONS} are possible"
            )
        return Variation(name, tuple(map(str, range(first, end))))
    values = tuple(part.strip() for part in text.split(","))
    if "" in values:
        raise NodeError(
            f"--vary {name}={shortened(text)} has an empty value",
            help=f"write the values with a comma between two; empty text is '{name}=[\"\", …]'",
        )
    return Variation(name, values)


def _of_yaml(name: str, text: str) -> Variation:
    source = Source(f"--vary {name}", None, text)
    try:
        value, problems = parse(source)
    except Problems as error:
        value, problems = None, error.diagnostics
    if value is None or problems:
        reason = f": {problems[0].message}" if problems else ""
        raise NodeError(f"--vary {name}={shortened(text)} is no YAML{reason}", help="close brackets and quotes")
    entries = value.data if value.is_list else [value]
    if not entries:
        raise NodeError(f"--vary {name}=[] has no values", help="write the values with a comma between two")
    nodes = [entry.is_map for entry in entries]
    if any(nodes) and not all(nodes):
        raise NodeError(f"--vary {name}: some values are nodes, and some are not", help="vary one of both")
    for entry in entries:
        if entry.is_map and not (isinstance(entry.data.get("uses"), Value) and entry.data["uses"].data):
            raise NodeError(
                f"--vary {name}: a value in braces is a node, and {shortened(_written(entry, source))} has no `uses`",
                help=f"write '{name}={{uses: TYPE, parameter: value}}'",
            )
    return Variation(name, tuple(_written(entry, source) for entry in entries), nodes[0])


def _written(entry: Value, source: Source) -> str:
    """A value of a list as the command line would have it alone: a string without quotes, everything else as it is."""
    if isinstance(entry.data, str):
        return entry.data
    span = entry.span
    lines = list(source.lines[span.line - 1 : span.end_line])
    lines[-1] = lines[-1][: span.end_column - 1]
    lines[0] = lines[0][span.column - 1 :]
    return " ".join(line.strip() for line in lines)


def _lines(name: str, file: str) -> tuple[str, ...]:
    """The lines of a file. Lines without text are no values."""
    if not file:
        raise NodeError(f"--vary {name}=@ names no file", help="write @FILE, with one value in each line")
    try:
        text = Path(file).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise NodeError(f"--vary {name}: {shortened(file)} is not text in UTF-8", help="save it as UTF-8") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise NodeError(f"--vary {name}: cannot read {shortened(file)}: {reason}", help="name a text file") from None
    found = tuple(line.strip() for line in text.splitlines() if line.strip())
    if not found:
        raise NodeError(f"--vary {name}: {shortened(file)} has no line with text", help="write one value in each line")
    return found


def _different(made: Variation) -> None:
    seen: dict[Any, str] = {}
    for value in made.values:
        meaning = _meaning(value)
        if meaning in seen:
            same = value if value == seen[meaning] else f"{seen[meaning]} and {value}"
            raise NodeError(
                f"--vary {made.name} has a value twice: {shortened(same, 80)}", help="leave one of them out"
            )
        seen[meaning] = value


def _meaning(text: str) -> Any:
    """A value that is equal for texts that mean the same: `0` and `0.0`, or two mappings in another order."""
    if text.startswith(("{", "[")):
        try:
            value, problems = parse(Source("<value>", None, text))
        except Problems:
            return text
        return tuple(_flat(value.plain())) if value is not None and not problems else text
    found = scalar(text)
    return (type(found) is bool, found) if not isinstance(found, str) else text


def _flat(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        for name in sorted(value, key=str):
            yield from ("{", name, *_flat(value[name]))
    elif isinstance(value, list):
        yield "["
        for entry in value:
            yield from _flat(entry)
        yield "]"
    else:
        yield (type(value) is bool, value)
