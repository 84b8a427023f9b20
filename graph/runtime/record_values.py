"""Values of a run as plain data, for its record."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..contract.node import Run
from ..contract.ports import Port
from .arguments import facts_of


def plain_output(value: Any, run: Run) -> Any:
    """A workflow output in the record: files as paths below the output folder, other values as their facts."""
    if isinstance(value, list | tuple):
        return [plain_output(v, run) for v in value]
    facts = facts_of(value)
    path = value if isinstance(value, Path) else facts.get("path")
    if path is not None:
        out = getattr(run, "out", None)
        root = out.resolve() if out is not None else None
        return str(Path(path).relative_to(root)) if root is not None and Path(path).is_relative_to(root) else str(path)
    return {"type": type(value).__name__, **facts} if isinstance(value, Port) else value


def clean(value: Any) -> Any:
    """The value as JSON: paths and numbers that are not finite become text."""
    if isinstance(value, Mapping):
        return {str(k): clean(v) for k, v in value.items()}
    if isinstance(value, set | frozenset):
        return sorted(map(clean, value), key=repr)
    if isinstance(value, list | tuple):
        return [clean(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)
