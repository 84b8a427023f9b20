"""The combinations of a sweep: every value of each varied name with every value of the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

from ...compiler.passes.fold import safe_name
from ...contract.text_tables import shortened
from .variations import Fixed, Variation

LONGEST_NAME = 60
"""Characters of values in the name of a folder."""


@dataclass(frozen=True)
class Combination:
    """One run of a sweep.

    Attributes:
        number: Its number, from 1.
        values: The value of each varied name, as text.
    """

    number: int
    values: Mapping[str, str]

    @property
    def folder(self) -> str:
        """The name of its folder in that of the sweep: `007-cache-0.05-seed-1`."""
        text = safe_name(" ".join(f"{name} {value}" for name, value in self.values.items()))
        return f"{self.number:03d}-{text[:LONGEST_NAME].rstrip('-.')}"

    def label(self, only: Sequence[str] | None = None, length: int = 40) -> str:
        """The values as text: `cache=0.05 seed=1`.

        Args:
            only: The names to tell of; None for all.
            length: Characters of a value. A longer one is cut.
        """
        names = self.values if only is None else only
        return " ".join(f"{name}={shortened(self.values[name], length)}" for name in names)


def combinations(varied: Sequence[Variation]) -> tuple[Combination, ...]:
    """Every combination. The last name changes fastest."""
    names = [each.name for each in varied]
    rows = product(*(each.values for each in varied))
    return tuple(Combination(number, dict(zip(names, row, strict=True))) for number, row in enumerate(rows, 1))


def reference_of(
    combination: Combination, all_: Sequence[Combination], reference: Sequence[Fixed]
) -> Combination | None:
    """The combination that differs only in the names of the reference; None without a reference."""
    if not reference:
        return None
    wanted = {**combination.values, **{each.name: each.value for each in reference}}
    return next(each for each in all_ if each.values == wanted)
