"""The per-node table of a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..contract.text_tables import count, seconds
from ..runtime.limits_file import ADVICE
from .fitted_tables import fitted, wrapped
from .tables import facts, indent, shape, tree

KINDS = {"copy": "memory rate", "disk": "disk rate"}

DROPPED = ("type", "output", "ceiling", "peak", "calls", "device s", "share")
"""Columns of the table in the order in which a narrow terminal loses them."""


def run_table(record: Mapping[str, Any], width: int | None = None) -> str:
    """Write the table of a run: a row for each node and for the time outside nodes, and the time of each phase.

    Rows of time outside nodes are left out if they took less than a millisecond. `ceiling` is how near a node came to a
    limit of the machine, where the limits were measured.

    Args:
        record: The record of the run.
        width: Columns of the terminal; None for the whole table.
    """
    rows = {row["name"]: row for row in record["nodes"] if row["type"] or row["seconds"] >= 0.001}
    device = any(row["device_seconds"] is not None for row in rows.values())
    limits = record.get("ceilings")
    head = ["node", "type", "calls", "seconds", *(["device s"] if device else []), "share", "peak"]
    head += [*(["ceiling"] if limits else []), "output"]
    lines: list[list[str]] = [head]
    for name in tree(rows):
        row = rows[name]
        extra = [seconds(row["device_seconds"])] if device else []
        idle = "interrupted" if row.get("interrupted") else "reused" if row.get("reused") else "-"
        calls = str(row["calls"] or idle)
        same = row["detail"].get("same_as")
        details = {k: seconds(v) for k, v in row["detail"].items()} if not row["type"] else row["detail"]
        said = "; ".join(text for text in (shape(row["outputs"]), facts(details)) if text)
        output = f"same as {same}" if same else said
        peak = count(row["peak_bytes"], "B", 1024)
        cells = [indent(name), row["type"], calls, seconds(row["seconds"]), *extra, f"{row['share']:.0%}", peak]
        lines.append([*cells, *([ceiling(row.get("ceiling"))] if limits else []), output])
    text = fitted(lines, width, flexible="output", drop=DROPPED, right=range(2, 6 + device))
    phases = ", ".join(f"{name} {seconds(value)}" for name, value in record["phases"].items())
    total = f"{record['status']} in {seconds(record['seconds'])} s ({phases})"
    peak = record["peak_bytes"]
    total += f", peak {count(peak, 'B', 1024)}" if peak else ""
    notes = [total]
    saved = sum(row.get("saved_seconds", 0.0) for name, row in rows.items() if "." not in name)  # the others are in it
    if saved:
        notes.append(f"reused: results that the store had; making them took {seconds(saved)} s")
    beside = record.get("overlapped_seconds")
    if beside is not None:
        where = f" on {record['overlap_device']}" if record.get("overlap_device") else ""
        ran = f"ran in a second thread{where} while other nodes ran"
        notes.append(f"overlapped: {seconds(max(beside, 0.0))} s of nodes {ran}")
    if device:
        notes.append("seconds: the host's, which a node also spends waiting for the GPU; device s: the GPU's own")
    uncounted = [name for name, row in rows.items() if row.get("uncounted") and row["type"] != "loop"]
    if uncounted:
        names = ", ".join(uncounted)
        notes.append(f"work of {names}: not counted yet, since that takes too much of this run; the next runs go on")
    if limits is None and any(row.get("flops") for row in rows.values()):
        notes.append(ADVICE)
    return "\n".join([*text, "", *(line for note in notes for line in wrapped(note, width, "  "))])


def ceiling(value: Mapping[str, Any] | None) -> str:
    """How near a node came to a limit: `61% of bfloat16 rate`."""
    if value is None:
        return "-"
    share = value["fraction"]
    shown = "<1%" if 0 < share < 0.01 else f"{share:.0%}"
    return f"{shown} of {KINDS.get(value['kind']) or str(value['dtype']) + ' rate'}"
