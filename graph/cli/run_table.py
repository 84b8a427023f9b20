"""The per-node table of a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..contract.text_tables import count, seconds
from .fitted_tables import fitted, wrapped
from .tables import facts, indent, shape, tree

DROPPED = ("type", "output", "ceiling", "peak", "calls", "device s", "share")
"""Columns of the table in the order in which a narrow terminal loses them."""


def run_table(record: Mapping[str, Any], width: int | None = None) -> str:
    """Write the table of a run: a row for each node, and the time of each phase.

    Args:
        record: The record of the run.
        width: Columns of the terminal; None for the whole table.
    """
    rows = {row["name"]: row for row in record["nodes"]}
    device = any(row["device_seconds"] is not None for row in rows.values())
    head = ["node", "type", "calls", "seconds", *(["device s"] if device else []), "share", "peak", "output"]
    lines: list[list[str]] = [head]
    for name in tree(rows):
        row = rows[name]
        extra = [seconds(row["device_seconds"])] if device else []
        calls = str(row["calls"]) if row["calls"] else "-"
        same = row["detail"].get("same_as")
        said = "; ".join(text for text in (shape(row["outputs"]), facts(row["detail"])) if text)
        output = f"same as {same}" if same else said
        peak = count(row["peak_bytes"], "B", 1024)
        lines.append(
            [indent(name), row["type"], calls, seconds(row["seconds"]), *extra, f"{row['share']:.0%}", peak, output]
        )
    text = fitted(lines, width, flexible="output", drop=DROPPED, right=range(2, 6 + device))
    phases = ", ".join(f"{name} {seconds(value)}" for name, value in record["phases"].items())
    total = f"{record['status']} in {seconds(record['seconds'])} s ({phases})"
    peak = record["peak_bytes"]
    total += f", peak {count(peak, 'B', 1024)}" if peak else ""
    return "\n".join([*text, "", *wrapped(total, width, "  ")])
