"""Moments in the record of a run, from which a stored result tells."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Mark:
    """A moment of a run: the number of turns, events by kind and warnings up to then."""

    turns: int
    events: Mapping[str, int]
    warnings: int


@dataclass(frozen=True)
class Begun:
    """An item that is being made for the store.

    Attributes:
        started: When it began, as `perf_counter` gives it.
        mark: That moment in the record.
    """

    started: float
    mark: Mark
