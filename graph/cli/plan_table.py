"""The table of `sgd plan`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..contract.text_tables import columns, count, seconds
from .tables import facts, shape


def plan_table(estimate: Mapping[str, Any]) -> str:
    """The table of `sgd plan`. `at least` is the time in seconds at the machine's measured limit, where it is known."""
    rows = {row["name"]: row for row in estimate["nodes"]}
    floors = any(row["least_seconds"] for row in rows.values())
    extra = ["at least, s"] if floors else []
    lines: list[list[str]] = [["node", "type", "calls", "parameters", "FLOP", *extra, "peak", "output"]]
    for row in rows.values():
        calls = str(row["calls"]) if row["calls"] else "-"
        parameters, flops = count(row["parameters"]), count(row["flops"])
        lines.append(
            [
                row["name"],
                row["type"],
                calls,
                parameters,
                flops,
                *([seconds(row["least_seconds"]) if row["least_seconds"] else "-"] if floors else []),
                count(row["peak_bytes"], "B", 1024),
                "; ".join(t for t in (shape(row["outputs"]), facts(row["detail"])) if t),
            ]
        )
    text = columns(lines, right=range(2, 6 + floors))
    for component in estimate["components"]:
        size = count(component["parameters"])
        memory = count(component["bytes"], "B", 1024)
        dtype = component.get("dtype") or ""
        text.append(f"  {component['holder']}.{component['part']}: {size} parameters, {memory} {dtype}".rstrip())
    peak, memory = estimate["peak_bytes"], estimate["memory_bytes"]
    fits = (
        ""
        if not memory
        else f" of {count(memory, 'B', 1024)} on {estimate['device']}: "
        + ("fits" if estimate["fits"] else "does not fit")
    )
    text += ["", f"total {count(estimate['flops'])}FLOP, peak memory {count(peak, 'B', 1024)}{fits}"]
    text += [f"warning: {w}" for w in estimate["warnings"]]
    return "\n".join(text)
