"""Small VAEs whose convolutions take frames with margins, as those of full size do on a GPU."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import torch
from sgd.nodes.models.decoders import causal_chunks, margin_convolution
from sgd.nodes.models.decoders.dense_convolution import DenseWeight, dense_weight
from sgd.nodes.models.decoders.margin_convolution import laid_out
from sgd.nodes.models.decoders.margin_tiles import TILES, Tile
from torch import Tensor, nn

WIDTHS = (8, 16, 32, 64)
TILE = Tile(128, 16, 16, 32, 2, 4)


def with_margins(monkeypatch, widths: set[int] | None = None) -> Callable[[], int]:
    """Let convolutions between numbers of channels have margins, in every dtype and on every device.

    Args:
        monkeypatch: That of the test.
        widths: The numbers; all that small VAEs have if not given.

    Returns:
        A function that tells how many such convolutions were computed.
    """
    for channels in product(widths or WIDTHS, repeat=2):
        monkeypatch.setitem(TILES, channels, TILE)

    def chosen(conv: nn.Conv3d, dtype: torch.dtype) -> DenseWeight:
        weight = dense_weight(conv, dtype=dtype)
        known = (conv.in_channels, conv.out_channels) in TILES and conv.kernel_size == (3, 3, 3)
        return laid_out(weight) if known else weight

    own, calls = margin_convolution.convolve_margins, []

    def counted(padded: Tensor, weight: DenseWeight) -> Tensor:
        calls.append(padded.shape)
        return own(padded, weight)

    monkeypatch.setattr(causal_chunks, "chosen", chosen)
    monkeypatch.setattr(causal_chunks, "convolve_margins", counted)
    return lambda: len(calls)
