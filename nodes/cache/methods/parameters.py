"""Parameters that several gates have, under the same names everywhere. Torch-free."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from ....graph.contract.node import NodeError, Problem
from ..gate import Gate, Mask, Policy, Preset
from ..masks import NAMES

Count = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Threshold = Annotated[float, Field(ge=0)]
Ratio = Annotated[float, Field(gt=0)]
Order = Annotated[int, Field(ge=0, le=3)]
Stacks = Literal["together", "separate"]


def mask_from(
    preset: Preset | None,
    compute_bins: list[int] | None,
    reuse_bins: list[int] | None,
    mask: str | None,
    policy: Policy,
) -> Mask | None:
    """The mask that is asked for, None if none is.

    Raises:
        ValueError: If it is asked for in several ways, or cannot be one. The message is for the user.
    """
    choices = {"preset": preset, "compute_bins": compute_bins, "mask": mask}
    given = [name for name, value in choices.items() if value is not None]
    if len(given) > 1:
        raise ValueError(f"`{given[0]}` and `{given[1]}` each say which steps are computed: give one of them")
    if (compute_bins is None) != (reuse_bins is None):
        raise ValueError("`compute_bins` and `reuse_bins` belong together")
    if compute_bins is not None and reuse_bins is not None:
        for name, lengths in (("compute_bins", compute_bins), ("reuse_bins", reuse_bins)):
            if not lengths:
                raise ValueError(f"`{name}` is empty")
        if min(*compute_bins, *reuse_bins) < 1:
            raise ValueError("the lengths in `compute_bins` and `reuse_bins` are 1 and more")
        return Mask(compute_bins=tuple(compute_bins), reuse_bins=tuple(reuse_bins), policy=policy)
    if mask is not None:
        if not mask or set(mask) - set("01"):
            raise ValueError("`mask` is a string of 1 (compute) and 0 (reuse), one for each step")
        return Mask(digits=mask, policy=policy)
    if preset is not None:
        if preset not in NAMES:
            raise ValueError(f"there is no preset {preset!r}")
        return Mask(preset=preset, policy=policy)
    return None


def numbers(name: str, values: list[float] | None) -> tuple[float, ...] | None:
    """The numbers of a parameter, None if it is not given.

    Raises:
        ValueError: If there are none in it. The message is for the user.
    """
    if values is None:
        return None
    if not values:
        raise ValueError(f"`{name}` is empty")
    return tuple(values)


def described(make: Callable[..., Gate], **known: Any) -> dict[str, Any] | None:
    """The description of the gate that `make` makes, if all that it takes is known."""
    try:
        return {"gate": make(**known)}
    except (TypeError, ValueError):
        return None


def checked(make: Callable[..., Gate], parameter: str, **known: Any) -> Iterator[Problem]:
    """What is wrong with the parameters among themselves."""
    try:
        make(**known)
    except TypeError:
        return  # something is not known
    except ValueError as error:
        names = [name for name, value in known.items() if value is not None and f"`{name}`" in str(error)]
        yield Problem("bad-value", (names or [parameter])[0], str(error))


def made(make: Callable[..., Gate], here: str, values: Mapping[str, Any]) -> Gate:
    """The gate, named by its node.

    Raises:
        NodeError: If the parameters do not go together.
    """
    from dataclasses import replace

    try:
        return replace(make(**values), name=here)
    except ValueError as error:
        raise NodeError(str(error)) from error
