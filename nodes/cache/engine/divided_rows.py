"""Kept rows of a sequence that several processes share: join the parts of a row, and cut the part of one process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from .gated_component import Parts
from .kept_rows import KeptRow, Together
from .row_snapshot import RowSnapshot

if TYPE_CHECKING:
    import torch


@dataclass
class WholeRows:
    """Joins the parts of rows. Part r of p has the tokens r, r + p, r + 2 p, …

    Args:
        cut: The streams that are cut; others are equal in all processes.
    """

    cut: Sequence[str]
    _homes: dict[tuple[int, ...], Together] = field(default_factory=dict)

    def of(self, rows: Sequence[RowSnapshot]) -> RowSnapshot:
        """Join one row from its parts, in the order of the processes."""
        first = rows[0]
        hidden, text, compared = first.hidden, first.text, first.compared
        if "hidden" in self.cut:
            hidden = (hidden[0], tuple(map(self._whole, zip(*(row.hidden[1] for row in rows), strict=True))))
            compared = None if compared is None else self._whole([row.compared for row in rows])
        if "text" in self.cut:
            text = (text[0], tuple(map(self._whole, zip(*(row.text[1] for row in rows), strict=True))))
        return replace(first, hidden=hidden, text=text, compared=compared)

    def _whole(self, parts: Sequence[KeptRow | None]) -> KeptRow:
        rows = [part for part in parts if part is not None]
        if len(rows) < len(parts):
            raise ValueError("a process has no part of a row that others have")
        length = None if rows[0].length is None else sum(row.length or 0 for row in rows)
        if len({(row.at, len(row.shared)) for row in rows}) > 1:  # not alike in all processes
            return KeptRow(Together(_interleaved([row.shared[row.at : row.at + 1] for row in rows])), 0, length)
        key = tuple(id(row.home) for row in rows)
        if key not in self._homes:
            self._homes[key] = Together(_interleaved([row.shared for row in rows]))
        return KeptRow(self._homes[key], rows[0].at, length)


def _interleaved(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """The tokens of all parts in their order in the sequence, [n, tokens, ...]."""
    first, count = parts[0], len(parts)
    whole = first.new_empty(len(first), sum(part.shape[1] for part in parts), *first.shape[2:])
    for number, part in enumerate(parts):
        whole[:, number::count] = part
    return whole


@dataclass
class OwnPart:
    """Cuts the part of this process from whole rows.

    Args:
        parts: The parts of the sequence; None if one process computes it, so that rows stay whole.
        cut: The streams that are cut.
    """

    parts: Parts | None
    cut: Sequence[str]
    _homes: dict[int, tuple[Together, Together]] = field(default_factory=dict)

    def of(self, row: RowSnapshot) -> RowSnapshot:
        """The part of a row that this process has."""
        parts = self.parts
        if parts is None:
            return row

        def own(kept: KeptRow) -> KeptRow:
            before, made = self._homes.get(id(kept.home), (None, None))
            if before is None or made is None:
                made = Together(parts.cut(kept.shared, 1))
                self._homes[id(kept.home)] = kept.home, made  # holding the first keeps its id unique
            return KeptRow(made, kept.at, None if kept.length is None else parts.own(kept.length))

        hidden, text, compared = row.hidden, row.text, row.compared
        if "hidden" in self.cut:
            hidden, compared = _each(own, hidden), None if compared is None else own(compared)
        if "text" in self.cut:
            text = _each(own, text)
        return replace(row, hidden=hidden, text=text, compared=compared)


def _each(
    own: Callable[[KeptRow], KeptRow], expansion: tuple[int, tuple[KeptRow, ...]]
) -> tuple[int, tuple[KeptRow, ...]]:
    return expansion[0], tuple(map(own, expansion[1]))
