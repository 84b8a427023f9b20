"""Values that the operations of decoders take and give; kernels and their twins in torch share them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor

SMALLEST = 1e-12
"""Least length of a position's channels; `torch.nn.functional.normalize` has the same."""


class Sums(NamedTuple):
    """Sums over positions for each channel.

    Attributes:
        partial: Sums of values and of squares of several parts of the positions, [parts, 2, C].
        positions: The number of positions.
    """

    partial: Tensor
    positions: int


class Affine(NamedTuple):
    """A factor and a summand for each channel, [C], float32 or float64."""

    scale: Tensor
    shift: Tensor


class Margin(NamedTuple):
    """Positions added around frames: frames in front, rows above and below, columns left and right."""

    frames: int
    rows: int
    columns: int


class Doubled(NamedTuple):
    """Frames that an upsampling adds to its result, each value several times.

    Attributes:
        frames: [T, H, W, C], dense.
        times: 2 if frames are doubled too, else 1.
        skipped: How many of the doubled frames are left out at the start.
    """

    frames: Tensor
    times: int
    skipped: int
