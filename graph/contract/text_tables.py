"""Text for the terminal: aligned columns, numbers with units, shortened paths."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from .source_spans import BREAK
from .terminal_text import printable


def cell(value: object) -> str:
    """Text for one cell of a table: one line, without characters that control the terminal."""
    return printable(BREAK.sub(" ", str(value)))


def cells(text: str) -> int:
    """The columns of a terminal that a text takes: two for each wide character, such as Chinese ones and emoji."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


def columns(rows: Iterable[Sequence[str]], right: Iterable[int] = ()) -> list[str]:
    """Rows of cells as aligned lines; the columns in `right` are aligned to the right. A line break becomes a space."""
    table = [[cell(value) for value in row] for row in rows]
    if not table:
        return []
    right = set(right)
    widths = [max(cells(row[n]) for row in table) for n in range(len(table[0]))]
    lines = []
    for row in table:
        padded = []
        for number, (text, width) in enumerate(zip(row, widths, strict=True)):
            space = " " * (width - cells(text))
            padded.append(space + text if number in right else text + space)
        lines.append("  ".join(padded).rstrip())
    return lines


def seconds(value: float | None) -> str:
    """Write a number of seconds with about three significant digits."""
    if value is None:
        return "-"
    return f"{value:.0f}" if value >= 100 else f"{value:.2f}" if value >= 0.1 else f"{value:.4f}"


def count(value: float | None, unit: str = "", base: int = 1000) -> str:
    """Write a large number with a prefix, such as 1.42 G, or 1.42 GiB with `base` 1024."""
    if not value:
        return "-"
    prefixes = ["", "k", "M", "G", "T", "P"] if base == 1000 else ["", "Ki", "Mi", "Gi", "Ti", "Pi"]
    power = 0
    while abs(value) >= base and power < len(prefixes) - 1:
        value, power = value / base, power + 1
    digits = 0 if power == 0 or value >= 100 else 1 if value >= 10 else 2
    return f"{value:.{digits}f} {prefixes[power]}{unit}".rstrip()


def shortened(text: object, length: int = 100) -> str:
    """Write a path for a message. A text of more than `length` characters is cut and ends in `…`."""
    whole = str(text)
    return whole if len(whole) <= length else whole[: length - 1] + "…"
