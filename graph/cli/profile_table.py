"""Tables of the profiles of a run: its largest kernels, and the nodes of a run that was not measured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..contract.text_tables import seconds, shortened
from .fitted_tables import fitted, wrapped
from .run_table import run_table
from .tables import facts, indent, shape, tree

MOST = 10
"""Kernels in the table; the record has all."""

NAME = 60
"""Characters of a kernel's name. The names of C++ templates are longer than a line."""


def table_of(record: Mapping[str, Any], width: int | None = None) -> str:
    """The table of a run for a terminal of this width, or whole; for `--profile off` without times."""
    return unmeasured_table(record, width) if record["options"].get("profile") == "off" else run_table(record, width)


def unmeasured_table(record: Mapping[str, Any], width: int | None = None) -> str:
    """A row for each node, without its time and memory."""
    rows = {row["name"]: row for row in record["nodes"] if row["type"]}
    lines = [["node", "type", "calls", "output"]]
    for name in tree(rows):
        row = rows[name]
        same = row["detail"].get("same_as")
        said = "; ".join(text for text in (shape(row["outputs"]), facts(row["detail"])) if text)
        lines.append([indent(name), row["type"], str(row["calls"] or "-"), f"same as {same}" if same else said])
    total = f"{record['status']} in {seconds(record['seconds'])} s; nodes were not measured (--profile off)"
    table = fitted(lines, width, flexible="output", drop=("type", "calls"), right=[2])
    return "\n".join([*table, "", *wrapped(total, width, "  ")])


def kernel_table(record: Mapping[str, Any], width: int | None = None) -> str:
    """The largest kernels of a run, each under the node that launched it; empty without `--profile torch`."""
    rows = record.get("kernels")
    if rows is None:
        return ""
    own = f"the profiler itself took {seconds(record['profiler_seconds'])} s"
    if not rows:
        return f"no kernels were measured; {own}"
    device = any(row["device_seconds"] is not None for row in rows)
    key, head = ("device_seconds", "device s") if device else ("seconds", "seconds")
    whole = sum(row[key] or 0.0 for row in rows)
    largest = sorted(rows, key=lambda row: -(row[key] or 0.0))[:MOST]
    several = "rank" in rows[0]
    lines = [["kernel" if device else "operator", *(["rank"] if several else []), "node", "calls", head, "share"]]
    for row in largest:
        share = (row[key] or 0.0) / whole if whole else 0.0
        rank = [str(row["rank"])] if several else []
        numbers = [str(row["calls"]), seconds(row[key]), f"{share:.0%}"]
        lines.append([shortened(row["name"], NAME), *rank, row["node"], *numbers])
    noun = "kernels" if device else "operators"
    by = "rank and node" if several else "node"
    total = f"{len(largest)} of {len(rows)} {noun} by {by}, which took {seconds(whole)} s in all; {own}"
    last = len(lines[0])
    table = fitted(lines, width, flexible=0, drop=("share", "calls", "node"), right=range(last - 3, last))
    return "\n".join([*table, "", *wrapped(total, width, "  ")])
