"""Tables whose columns can be sorted in the browser, by `assets/tables.js`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from .page import piece


@dataclass(frozen=True)
class Cell:
    """A cell of a table.

    Attributes:
        text: The text that it shows.
        order: The number that it is sorted by; None sorts by the text, and below all numbers.
        bar: A bar behind the text, from 0 to 1; None for none.
        depth: How many steps the text is indented.
        more: A second, quieter text.
        mono: Whether the text is a name of the file.
    """

    text: str
    order: float | None = None
    bar: float | None = None
    depth: int = 0
    more: str = ""
    mono: bool = False


@dataclass(frozen=True)
class Column:
    """A column: its heading, whether it holds numbers, and an explanation."""

    title: str
    number: bool = False
    about: str = ""


def table(caption: str, columns: Sequence[Column], rows: Sequence[Sequence[Cell]], sortable: bool = True) -> Markup:
    """The HTML of a table.

    Args:
        caption: A sentence for readers who do not see it.
        columns: Its columns.
        rows: A cell for each column. Their order is the first one, and comes back after the third click on a heading.
        sortable: Whether its headings sort it.
    """
    return piece("table", caption=caption, columns=columns, rows=rows, sortable=sortable)
