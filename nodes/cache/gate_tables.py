"""Check the table of a gate: tuned gates read the tables of `sgd tune`, others those of `sgd calibrate`. Torch-free."""

from __future__ import annotations

from pathlib import Path

from ...graph.contract.diagnostics import Diagnostic
from .calibration import table
from .tuning import tuned_table


def table_problem(kind: str, path: str | Path | None) -> Diagnostic | None:
    """The problem of a gate's table; None if it can be read, or no table is named.

    Args:
        kind: The kind of the gate.
        path: The table.
    """
    return table.problem(path, tuned_table.read if kind == tuned_table.KIND else table.read)
