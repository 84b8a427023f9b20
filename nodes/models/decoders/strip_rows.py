"""Strips: a rebuilt decoder or encoder has some rows of every frame, and other processes those above and below.

Outside `in_strips` all functions leave their arguments as they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from .frame_values import Sums


class Neighbours(Protocol):
    """The processes that have the other rows."""

    def rows(self, x: Tensor, dim: int, above: int, below: int) -> tuple[Tensor | None, Tensor | None]:
        """The last rows of the strip above and the first rows of the strip below; None at the edge of the frame.

        Args:
            x: The own strip.
            dim: The dimension of rows.
            above: How many rows of the strip above.
            below: How many rows of the strip below.
        """

    def total(self, numbers: Tensor) -> Tensor:
        """The sum over all strips, in float64."""

    def whole(self, count: int) -> int:
        """A number of positions in all strips, where the own one has `count`."""

    def gathered(self, x: Tensor, dim: int) -> Tensor:
        """All rows, of which `x` has the own ones."""


_now: Neighbours | None = None


@contextmanager
def in_strips(neighbours: Neighbours) -> Iterator[None]:
    """Let rebuilt decoders and encoders work on strips inside `with`. All strips do the same work at the same time."""
    global _now
    before, _now = _now, neighbours
    try:
        yield
    finally:
        _now = before


def has_strips() -> bool:
    """Whether other processes have the other rows."""
    return _now is not None


def fill_margins(padded: Tensor) -> Tensor:
    """Write the rows of the neighbours into a margin of one row, [T, H + 2, W + 2, C]. Returns the same tensor."""
    if _now is not None:
        above, below = _now.rows(padded[:, 1:-1], 1, 1, 1)
        if above is not None:
            padded[:, :1] = above
        if below is not None:
            padded[:, -1:] = below
    return padded


def of_all(found: Sums) -> Sums:
    """Sums of the positions of all strips, in two parts which together have the digits of float64."""
    if _now is None:
        return found
    total = _now.total(found.partial.double().sum(0))
    rounded = total.to(found.partial.dtype)
    rest = (total - rounded.double()).to(found.partial.dtype)
    return Sums(torch.stack([rounded, rest]), _now.whole(found.positions))


def everywhere(finite: Tensor) -> bool:
    """Whether something is true in all strips, so that all go on alike. The host waits for the device."""
    return bool(finite) if _now is None else _now.total((~finite).double()).item() == 0


def all_rows(x: Tensor, dim: int) -> Tensor:
    """The rows of all strips, in the order of the frame."""
    return x if _now is None else _now.gathered(x, dim)


def for_halving(x: Tensor) -> Tensor:
    """A strip [T, H, W, C] with a row below, that of the neighbour or zeros, and a column of zeros at the right.

    Returns:
        [T, H + 1, W + 1, C]: the input of a convolution of three taps that halves rows and columns.
    """
    padded = F.pad(x, (0, 0, 0, 1, 0, 1))
    below = None if _now is None else _now.rows(x, 1, 0, 1)[1]
    if below is not None:
        padded[:, -1:, :-1] = below
    return padded


def surrounded(x: Tensor) -> Tensor | None:
    """A strip [T, H, W, C] with a row of each neighbour, or zeros; None outside strips."""
    if _now is None:
        return None
    above, below = _now.rows(x, 1, 1, 1)
    zeros = x.new_zeros(x.shape[0], 1, *x.shape[2:])
    return torch.cat([zeros if above is None else above, x, zeros if below is None else below], dim=1)
