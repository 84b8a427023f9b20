"""A run that measures for calibration, and tables of its measurements, without the command line."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from sgd.nodes.cache.calibration.measurements import Measurements
from sgd.nodes.values import Schedule

from helpers.direct import DirectRun
from helpers.ours import Pair


class Calibrating(DirectRun):
    """A run that measures for calibration."""

    options: Mapping[str, Any] = {"calibrate": True}

    def measured(self, name: str, component: str = "transformer") -> dict[str, list[float | None]]:
        """Values of one kind by branch, one for each step of the component."""
        found: dict[str, list[float | None]] = {}
        for kind, data in self.events:
            if kind == "measurement" and data["component"] == component:
                row = found.setdefault(data["branch"], [])
                assert data["index"] == len(row)
                row.append(data["values"].get(name))
        return found


def tabled(runs: Iterable[DirectRun], plan: Schedule, order: int = 4) -> dict[str, Any]:
    """The table of measured runs."""
    measurements = Measurements(order)
    measurements.node_finished(None, 0.0, {"schedule": plan})  # type: ignore[arg-type]
    for run in runs:
        for kind, data in run.events:
            measurements.event(None, kind, data)
    return json.loads(json.dumps(measurements.table(["a prompt"], {}), allow_nan=False))


def calibrate(pair: Pair, path: Path, order: int = 4, **options: Any) -> dict[str, Any]:
    """Measure one run of a pair and write its table."""
    run = Calibrating()
    pair.run(run=run, **options)
    table = tabled([run], pair.prepare(**options)[0], order)
    path.write_text(json.dumps(table))
    return table
