"""The table of `sgd plan`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..contract.text_tables import count, seconds
from .fitted_tables import fitted, wrapped
from .role_table import role_lines
from .tables import facts, shape

DROPPED = ("type", "output", "parameters", "calls", "at least", "peak", "FLOP", "stored")
"""Columns of the table in the order in which a narrow terminal loses them."""


def plan_table(estimate: Mapping[str, Any], width: int | None = None) -> str:
    """The table of `sgd plan`, for a terminal of this width; None for the whole table.

    `at least` is the time at the machine's limit, where it is known. `stored` is there if the store has results.
    """
    rows = {row["name"]: row for row in estimate["nodes"]}
    least = [row["least_seconds"] for row in rows.values() if row["least_seconds"]]
    known = estimate.get("store") is not None
    stored = ["stored"] if known else []
    head = ["node", "type", "calls", *stored, "parameters", "FLOP", *(["at least"] if least else []), "peak", "output"]
    lines: list[list[str]] = [head]
    for row in rows.values():
        calls = str(row["calls"]) if row["calls"] else "-"
        parameters, flops = count(row["parameters"]), count(row["flops"])
        floor = [f"{seconds(row['least_seconds'])} s" if row["least_seconds"] else "-"] if least else []
        output = "; ".join(t for t in (shape(row["outputs"]), facts(row["detail"])) if t)
        peak = count(row["peak_bytes"], "B", 1024)
        reuse = [row["stored"] or "-"] if known else []
        lines.append([row["name"], row["type"], calls, *reuse, parameters, flops, *floor, peak, output])
    text = fitted(lines, width, flexible="output", drop=DROPPED, right=range(2, len(head) - 1))
    for component in estimate["components"]:
        size = count(component["parameters"])
        memory = count(component["bytes"], "B", 1024)
        dtype = component.get("dtype") or ""
        line = f"  {component['holder']}.{component['part']}: {size} parameters, {memory} {dtype}".rstrip()
        text += wrapped(line, width, "    ")
    peak, memory = estimate["peak_bytes"], estimate["memory_bytes"]
    fits = (
        ""
        if not memory
        else f" of {count(memory, 'B', 1024)} on {estimate.get('card') or estimate['device']}: "
        + ("fits" if estimate["fits"] else "does not fit")
    )
    bound = f", at least {seconds(estimate['least_seconds'])} s" if estimate.get("least_seconds") else ""
    several = len(estimate.get("roles", ())) > 0
    total = f"total {count(estimate['flops'])}FLOP{bound}{' on rank 0' * several}"
    where = " of all processes" if several and estimate["device"] == "cpu" else " of a GPU" if several else ""
    total += f", peak memory{where} {count(peak, 'B', 1024)}{fits}"
    if several:
        text += ["", *role_lines(estimate, width)]
    text += ["", *wrapped(total, width, "  ")]
    if estimate.get("card"):
        basis = (
            f"planned for compute capability {estimate['capability']}, with Triton and this machine's other packages"
        )
        text += wrapped(basis, width, "  ")
    text += [line for w in estimate["warnings"] for line in wrapped(f"warning: {w}", width, "  ")]
    return "\n".join(text)
