"""Tiles: how the kernel of `margin_convolution` divides its work, for each pair of numbers of channels."""

from __future__ import annotations

from typing import NamedTuple


class Tile(NamedTuple):
    """How the kernel divides its work.

    Attributes:
        positions: Positions of a program.
        first: Output channels of a program, a power of two.
        second: More output channels of it, a power of two, or 0: 96 is 64 + 32.
        depth: Input channels of a product. Three times the channels are rounded up to a multiple of it.
        stages: Tiles that are on their way to a product.
        warps: Warps of a program.
    """

    positions: int
    first: int
    second: int
    depth: int
    stages: int
    warps: int

    @property
    def shared(self) -> int:
        """Bytes of shared memory that the tiles of two bytes a value take."""
        return 2 * self.depth * (self.positions + self.first + self.second) * self.stages


TILES = {
    (96, 96): Tile(256, 128, 0, 32, 8, 8),
    (192, 192): Tile(256, 128, 64, 64, 3, 8),
    (192, 384): Tile(256, 128, 0, 64, 3, 8),
    (384, 384): Tile(256, 128, 0, 64, 4, 8),
}
"""Tiles by the numbers of input and output channels, tuned on an H200 (`tests/benchmarks/convolutions.py`)."""
