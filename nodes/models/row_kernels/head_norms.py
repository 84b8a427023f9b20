"""The norms through which the queries and keys of an attention call went. They bound each element without a pass.

A row of n numbers has the length √n after a root-mean-square norm. No element of it then exceeds √n · the largest
weight. A rotation by pairs keeps the length of each pair, so that the bound still holds. An exchange of tokens or heads
between processes does not change it either.

A rebuilt block calls its backend through the dispatch of diffusers, which has no argument for the norms. So the block
sets a context variable (`knowing`), and a backend reads it (`known`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cached_property

import torch

from .quantized_rows import LARGEST, LEAST

MARGIN = 1 + 2.0**-6
"""Factor on a bound, for the rounding of queries, keys and rotary tables to bfloat16: at most 2^-8 each."""


@dataclass(frozen=True, eq=False)
class HeadNorms:
    """The weights of the root-mean-square norms of queries and keys.

    Attributes:
        query: Weights of one norm for each group of rows, [groups, n]. A norm acts on the n = D elements of a head, or
            on the n = H · D elements of all heads together.
        key: The same for the keys.
    """

    query: torch.Tensor
    key: torch.Tensor

    @cached_property
    def e4m3_scales(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Scales with which all queries, and all keys, stay in the range of e4m3: [] each, float32, on the device.

        They are computed at the first call, and nothing waits for the device.
        """
        return _e4m3_scale(self.query), _e4m3_scale(self.key)


def _e4m3_scale(weights: torch.Tensor) -> torch.Tensor:
    bound = weights.float().abs().amax() * (MARGIN * weights.shape[-1] ** 0.5)
    return bound.clamp_min(LEAST) / LARGEST["fp8"]


_known: ContextVar[HeadNorms | None] = ContextVar("head norms", default=None)


@contextmanager
def knowing(norms: HeadNorms | None) -> Iterator[None]:
    """Let backends know inside `with` that all queries and keys went through these norms; None tells nothing."""
    token = _known.set(norms)
    try:
        yield
    finally:
        _known.reset(token)


def known() -> HeadNorms | None:
    """The norms of the present call; None if nothing is known."""
    return _known.get()
