"""The limits of a workflow's `expect` after a run, on the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..contract.constants import DONE, FAILED
from ..runtime.expectations import line
from .terminal import say, show


def tell_expectations(record: Mapping[str, Any], strict: bool, quiet: bool) -> int:
    """Tell which limits the run kept. Returns the exit code: a broken limit is a failure with `--strict`.

    Args:
        record: The record of a run that is done.
        strict: Broken limits are errors; without it, warnings.
        quiet: Say nothing of limits that were kept.
    """
    rows = record.get("expectations", [])
    if not quiet:
        for row in (row for row in rows if row["met"]):
            show(f"expected: {line(row)}")
    broken = [row for row in rows if not row["met"]]
    for row in broken:
        say(f"{'error' if strict else 'warning'}: not as expected: {line(row)}")
    return FAILED if strict and broken else DONE
