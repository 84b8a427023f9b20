"""Text for the terminal: aligned columns, numbers with units, shortened paths."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from .source_spans import BREAK


def columns(rows: Iterable[Sequence[str]], right: Iterable[int] = ()) -> list[str]:
    """Rows of cells as aligned lines; the columns in `right` are aligned to the right. A line break becomes a space."""
    rows = [[BREAK.sub(" ", str(cell)) for cell in row] for row in rows]
    if not rows:
        return []
    right = set(right)
    widths = [max(len(row[n]) for row in rows) for n in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [c.rjust(w) if n in right else c.ljust(w) for n, (c, w) in enumerate(zip(row, widths, strict=True))]
        lines.append("  ".join(cells).rstrip())
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
