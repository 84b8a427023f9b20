"""Parameters that several gates share. They have equal names in all gates. Torch-free."""

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
    """The error of a parameter that conflicts with the other parameters."""
    return NodeError(Diagnostic("bad-value", message, parameter))


def mask_from(
    preset: Preset | None,
    compute_bins: list[int] | None,
    reuse_bins: list[int] | None,
    mask: str | None,
    policy: Policy,
) -> Mask | None:
    """Make the mask from the parameters of a gate; None if no parameter gives a mask.

    Raises:
        NodeError: If several parameters give a mask, or the mask is not valid.
    """
    choices = {"preset": preset, "compute_bins": compute_bins, "mask": mask}
    given = [name for name, value in choices.items() if value is not None]
    if len(given) > 1:
        raise bad_value(
            given[0], f"`{given[0]}` and `{given[1]}` both say which steps are computed: set only one of them"
        )
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
    """The numbers of a parameter; None if the parameter is not given.

    Raises:
        NodeError: If the list is empty.
    """
    if values is None:
        return None
    if not values:
        raise bad_value(name, f"`{name}` is empty")
    return tuple(values)
