"""Sizes that a model cannot make, because its transformer has too few positions."""

from __future__ import annotations

from collections.abc import Iterator

from ..graph.contract.diagnostics import Diagnostic
from ..graph.contract.errors import NodeError
from .families import Configs, Family
from .values import Size

AXES = ("width", "height", "frames")


def size_problems(family: Family, size: Size, configs: Configs, place: str | None = None) -> Iterator[Diagnostic]:
    """An error for each axis of a size that is longer than the model can make.

    Args:
        family: The model's family.
        size: The size, as the family rounds it.
        configs: The model's configurations by component.
        place: The parameter with the problem; without it, the parameter `width`, `height` or `frames`.
    """
    limit = family.size_limit(configs)
    if limit is None:
        return
    for axis in AXES:
        most = getattr(limit.largest, axis)
        if getattr(size, axis) > most:
            message = f"this model cannot make {size}: {axis} is at most {most}, by {limit.reason}"
            yield Diagnostic("bad-value", message, place or axis, help=f"the largest size is {limit.largest}")


def require_size(family: Family, size: Size, configs: Configs) -> None:
    """Raise a NodeError for a size that the model cannot make."""
    for problem in size_problems(family, size, configs):
        raise NodeError(problem)
