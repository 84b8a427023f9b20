"""Parameters that several gates have, under the same names everywhere. Torch-free."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from ....graph.contract.diagnostics import Diagnostic
from ....graph.contract.errors import NodeError
from ..gate import Mask, Policy, Preset
from ..masks import NAMES

Count = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Threshold = Annotated[float, Field(ge=0)]
Ratio = Annotated[float, Field(gt=0)]
Order = Annotated[int, Field(ge=0, le=3)]
Stacks = Literal["together", "separate"]


def bad_value(parameter: str, message: str) -> NodeError:
    """The error of a parameter that does not go together with the others."""
    return NodeError(Diagnostic("bad-value", message, parameter))


def mask_from(
    preset: Preset | None,
    compute_bins: list[int] | None,
    reuse_bins: list[int] | None,
    mask: str | None,
    policy: Policy,
) -> Mask | None:
    """The mask that is asked for, None if none is.

    Raises:
        NodeError: If it is asked for in several ways, or cannot be one.
    """
    choices = {"preset": preset, "compute_bins": compute_bins, "mask": mask}
    given = [name for name, value in choices.items() if value is not None]
    if len(given) > 1:
        raise bad_value(given[0], f"`{given[0]}` and `{given[1]}` each say which steps are computed: give one of them")
    if (compute_bins is None) != (reuse_bins is None):
        alone = "compute_bins" if reuse_bins is None else "reuse_bins"
        raise bad_value(alone, "`compute_bins` and `reuse_bins` belong together")
    if compute_bins is not None and reuse_bins is not None:
        for name, lengths in (("compute_bins", compute_bins), ("reuse_bins", reuse_bins)):
            if not lengths:
                raise bad_value(name, f"`{name}` is empty")
        if min(*compute_bins, *reuse_bins) < 1:
            raise bad_value("compute_bins", "the lengths in `compute_bins` and `reuse_bins` are 1 and more")
        return Mask(compute_bins=tuple(compute_bins), reuse_bins=tuple(reuse_bins), policy=policy)
    if mask is not None:
        if not mask or set(mask) - set("01"):
            raise bad_value("mask", "`mask` is a string of 1 (compute) and 0 (reuse), one for each step")
        return Mask(digits=mask, policy=policy)
    if preset is not None:
        if preset not in NAMES:
            raise bad_value("preset", f"there is no preset {preset!r}")
        return Mask(preset=preset, policy=policy)
    return None


def numbers(name: str, values: list[float] | None) -> tuple[float, ...] | None:
    """The numbers of a parameter, None if it is not given.

    Raises:
        NodeError: If there are none in it.
    """
    if values is None:
        return None
    if not values:
        raise bad_value(name, f"`{name}` is empty")
    return tuple(values)
