"""The decisions of gates in a run, for its report. Torch-free."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from ...graph.contract.report_section import ReportSection, StepLane, StepMark
from .decisions_table import decision_key


def section(record: Mapping[str, Any]) -> list[ReportSection]:
    """A lane for each gate, branch and clip, from the record of a run; empty if there was no gate.

    A run that did not come to its end has decisions, but no totals.
    """
    decisions: dict[Any, list[Mapping[str, Any]]] = {}
    for decision in record.get("gates", []):
        decisions.setdefault(decision_key(decision), []).append(decision)
    if not decisions:
        return []
    methods = {total["gate"]: total["method"] for total in record.get("gate_totals", [])}
    places = {key[0] for key in decisions}
    components = {key[2] for key in decisions}
    lanes = []
    for (node, gate, component, branch, clip, stack), rows in decisions.items():
        name = f"{gate} ({methods[gate]})" if gate in methods else gate
        name += f" at {node}" if len(places) > 1 else ""
        name += f" · {component}" if len(components) > 1 else ""
        name += f" · {branch}"
        name += "".join(f" · {word} {n}" for word, n in (("clip", clip), ("stack", stack)) if n is not None)
        for number, part in enumerate(runs := _runs(rows), 1):
            count = Counter(bool(row["computed"]) for row in part)
            about = f"{count[True]} computed, {count[False]} reused ({count[False] / len(part):.0%})"
            again = f" · run {number} of {len(runs)}" if len(runs) > 1 else ""
            lanes.append(StepLane(name + again, about, [_mark(row) for row in part]))
    return [
        ReportSection(
            id="gates",
            title="Cache gates",
            about="At each step a gate computes a branch, or reuses earlier results. "
            "A value below the threshold lets it reuse.",
            lanes=lanes,
            on="computed",
            off="reused",
            value="distance",
        )
    ]


def _runs(rows: list[Mapping[str, Any]]) -> list[list[Mapping[str, Any]]]:
    """The decisions of each run of an inner loop: its steps begin again."""
    found: list[list[Mapping[str, Any]]] = []
    for row in rows:
        if not found or row["step"] <= found[-1][-1]["step"]:
            found.append([])
        found[-1].append(row)
    return found


def _mark(row: Mapping[str, Any]) -> StepMark:
    value, limit = row.get("value", row.get("distance")), row.get("threshold")
    return StepMark(
        step=row["step"],
        on=bool(row["computed"]),
        reason=row["reason"],
        value=None if value is None else float(value),  # numbers that are not finite are text
        limit=None if limit is None else float(limit),
    )
