"""Tables and sentences that fit the width of a terminal. Without a width, nothing is shortened and nothing is dropped.

A table gets narrower in this order, until it fits:

1. The cells of one column are shortened or wrapped, down to a least width.
2. Columns are dropped, in the order that the table states.
3. The cells of the first column are shortened.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ..contract.text_tables import cell, cells, columns

GAP = 2
LEAST = 12
"""Cells of the column that is shortened, before other columns are dropped."""


def fitted(
    rows: Iterable[Sequence[str]],
    width: int | None,
    *,
    flexible: str | int,
    drop: Sequence[str | int] = (),
    right: Iterable[int] = (),
    wrap: bool = False,
    least: int = LEAST,
) -> list[str]:
    """Rows of cells as aligned lines that are at most `width` cells long.

    Args:
        rows: The rows. The first has the names of the columns, if `drop` or `flexible` names columns.
        width: Columns of the terminal; None for the whole table.
        flexible: The column whose cells are shortened first, by its name or number.
        drop: Names or numbers of columns, in the order in which they are dropped. Names that the table lacks are
            ignored.
        right: Numbers of the columns that are aligned to the right.
        wrap: Wrap the cells of the flexible column over several lines, and cut nothing off.
        least: Cells that the flexible column keeps before columns are dropped.
    """
    table = [[cell(value) for value in row] for row in rows]
    if not table:
        return []
    aligned = set(right)
    if width is None or _width(table) <= width:
        return columns(table, aligned)
    head = table[0]
    kept = list(range(len(head)))
    found = [_number(head, column) for column in (flexible, *drop) if column in head or isinstance(column, int)]
    soft, waiting = found[0], found[1:]
    while True:
        others = sum(_column(table, n) + GAP for n in kept if n != soft)
        room = width - others
        wide = _column(table, soft) if soft in kept else -GAP
        if room >= min(wide, least) or not waiting:
            break
        kept.remove(waiting.pop(0))
    first = kept[0]
    narrow = [[row[n] for n in kept] for row in table]
    if soft in kept and soft != first:
        narrow = _narrowed(narrow, kept.index(soft), max(room, min(wide, least), 1), wrap)
    over = _width(narrow) - width
    if over > 0:
        narrow = _narrowed(narrow, 0, max(_column(narrow, 0) - over, 1), wrap and soft == first)
    return columns(narrow, [number for number, n in enumerate(kept) if n in aligned])


def _number(head: Sequence[str], column: str | int) -> int:
    return column if isinstance(column, int) else head.index(column)


def _column(table: Sequence[Sequence[str]], number: int) -> int:
    return max(cells(row[number]) for row in table)


def _width(table: Sequence[Sequence[str]]) -> int:
    count = len(table[0])
    return sum(_column(table, n) for n in range(count)) + GAP * (count - 1)


def _narrowed(table: Sequence[Sequence[str]], number: int, width: int, wrap: bool) -> list[list[str]]:
    """The table with one column of at most `width` cells."""
    made: list[list[str]] = []
    for row in table:
        lines = wrapped(row[number], width) if wrap else [cut(row[number], width)]
        for index, line in enumerate(lines or [""]):
            others = list(row) if not index else [""] * len(row)
            others[number] = line
            made.append(others)
    return made


def cut(text: str, width: int) -> str:
    """A text of at most `width` cells; one that was cut ends in `…`."""
    if cells(text) <= width:
        return text
    from rich.cells import set_cell_size

    return set_cell_size(text, max(width - 1, 0)).rstrip() + "…"


def wrapped(text: str, width: int | None, indent: str = "") -> list[str]:
    """A sentence as lines of at most `width` cells, broken at spaces; longer words are broken anywhere.

    Args:
        text: One line of text.
        width: Cells of a line; None does not break the text.
        indent: Text in front of every line but the first.
    """
    if width is None or cells(text) <= width:
        return [text]
    from rich.cells import chop_cells

    lines, line = [], ""
    start = text[: len(text) - len(text.lstrip())]
    for word in text.split():
        joined = f"{line} {word}" if line.strip() else f"{line}{word}" if line else start + word
        if cells(joined) <= width:
            line = joined
            continue
        if line.strip():
            lines.append(line)
            line = indent
        pieces = chop_cells(word, max(width - cells(indent), 1))
        for piece in pieces[:-1]:
            lines.append(indent * bool(lines) + piece)
        line = indent * bool(lines) + pieces[-1]
    return [*lines, line] if line.strip() else lines
