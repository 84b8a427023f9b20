"""Sections that a node library adds to the report of a run (`NodeLibrary.report_sections`).

A section shows choices that nodes made at each step: a lane for each row of choices, with a mark for each step, and
the numbers that were compared with a limit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class StepMark:
    """A choice at one step.

    Attributes:
        step: Number of the step, from 0.
        on: True for the first of the section's two choices.
        reason: Why, in a word or two.
        value: The number that was compared with the limit; None if there was none.
        limit: The limit; None if there was none.
    """

    step: int
    on: bool
    reason: str = ""
    value: float | None = None
    limit: float | None = None


@dataclass(frozen=True)
class StepLane:
    """The choices of one place over all steps. `about` is a short sum, such as `13 of 20`."""

    name: str
    about: str
    marks: Sequence[StepMark]


@dataclass(frozen=True)
class ReportSection:
    """A section of the report.

    Attributes:
        id: A word in small letters; no two sections of a report have the same.
        title: The heading.
        about: A line below the heading.
        lanes: Rows of choices.
        on: The word for a mark with `on`.
        off: The word for the other choice.
        value: The meaning of the marks' values, for a chart of them.
    """

    id: str
    title: str
    about: str
    lanes: Sequence[StepLane]
    on: str
    off: str
    value: str
