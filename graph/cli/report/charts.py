"""Charts: lines, bars and areas over numbers. `assets/charts.js` draws them with uPlot."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from markupsafe import Markup

from ...contract.terminal_text import printable
from .page import piece

MOST_POINTS = 1500
"""The most points of a chart: about the pixels of its width."""


@dataclass(frozen=True)
class Series:
    """One line, or one row of bars. `limit` is a dashed line that others are compared with."""

    label: str
    values: Sequence[float | None]
    kind: Literal["line", "bars", "area", "limit"] = "line"


@dataclass(frozen=True)
class Chart:
    """A chart.

    Attributes:
        about: A sentence for readers who do not see it.
        x_label: The meaning of the numbers below the chart.
        x: These numbers, in rising order.
        series: Values for each of them.
        unit: `seconds`, `bytes`, or empty for plain numbers.
        x_unit: The same for the numbers below the chart.
        height: In pixels.
    """

    about: str
    x_label: str
    x: Sequence[float]
    series: Sequence[Series]
    unit: Literal["seconds", "bytes", ""] = ""
    x_unit: Literal["seconds", "bytes", ""] = ""
    height: int = 190


def chart(made: Chart) -> Markup:
    """The HTML of a chart. One of more than `MOST_POINTS` points shows the largest value of each few, and says so."""
    shown, each = _thinned(made)
    data = {
        "x": [_short(value) for value in shown.x],
        "xLabel": shown.x_label,
        "unit": shown.unit,
        "xUnit": shown.x_unit,
        "height": shown.height,
        "series": [
            {"label": s.label, "kind": s.kind, "values": [_short(value) for value in s.values]} for s in shown.series
        ],
    }
    note = f"Each point is the largest of {each} neighbours." if each > 1 else ""
    return piece("chart", about=made.about, height=made.height, data=as_json(data), note=note)


def as_json(data: Any) -> str:
    """Compact JSON for an attribute. Its texts have no control characters."""
    return json.dumps(_plain(data), separators=(",", ":"), allow_nan=False)


def _plain(data: Any) -> Any:
    if isinstance(data, str):
        return printable(data)
    if isinstance(data, dict):
        return {key: _plain(value) for key, value in data.items()}
    return [_plain(value) for value in data] if isinstance(data, list | tuple) else data


def _thinned(made: Chart) -> tuple[Chart, int]:
    each = math.ceil(len(made.x) / MOST_POINTS)
    if each <= 1:
        return made, 1
    series = [replace(s, values=[_largest(s.values[i : i + each]) for i in range(0, len(made.x), each)])
              for s in made.series]  # fmt: skip
    return replace(made, x=made.x[::each], series=series), each


def _largest(values: Sequence[float | None]) -> float | None:
    return max((value for value in values if value is not None and not math.isnan(value)), default=None)


def _short(value: float | None) -> float | int | None:
    """A number with six digits; None for one that is not finite, since a chart has no place for it."""
    if value is None or not math.isfinite(value):
        return None
    return value if isinstance(value, int) else float(f"{value:.6g}")
