"""A copy of a bundled workflow that works in every folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ..contract.yaml_reader import Value, parse, read

PREFIX = "sgd:"


def portable_copy(file: Path) -> str:
    """Copy the text of a bundled workflow, and replace paths of files beside it by `sgd:` names.

    Comments and layout stay as they are.

    Raises:
        Problems: If the file cannot be read.
    """
    source = read(file)
    value, _ = parse(source)
    lines = source.text.splitlines(keepends=True)
    places = sorted(_paths(value, file.parent), key=lambda v: (v.span.line, v.span.column), reverse=True)
    for place in places:
        line, start, end = place.span.line - 1, place.span.column - 1, place.span.end_column - 1
        written = lines[line][start:end]
        lines[line] = lines[line][:start] + written.replace(place.data, name_of(place.data)) + lines[line][end:]
    return "".join(lines)


def name_of(path: str) -> str:
    """The `sgd:` name of a file beside the bundled workflows. It is valid in every folder."""
    return PREFIX + path.removeprefix("./")


def _paths(value: Value | None, folder: Path) -> Iterator[Value]:
    """The strings in a value that name a file or folder in a subfolder of `folder`."""
    if value is None:
        return
    if value.is_map or value.is_list:
        for inner in value.data.values() if value.is_map else value.data:
            yield from _paths(inner, folder)
    elif isinstance(value.data, str) and "/" in value.data and _beside(folder, value.data):
        yield value


def _beside(folder: Path, text: str) -> bool:
    try:
        return ".." not in Path(text).parts and not Path(text).is_absolute() and (folder / text).exists()
    except (OSError, ValueError):
        return False
