"""A whole transformer behind a gate that compares its input and output: computed, or not called at all (EasyCache)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ...families.base import DenoiserInput
from ...support import batch_rows
from . import predictors
from .gated_component import Call, Parts
from .row_cache import RowCache, decide


class WholeModel:
    """Computes rows of a batch, or adds the difference between their earlier output and input again.

    Args:
        transformer: The component.
        sign: -1 if the family returns the negative of the transformer's output.
        parts: The parts of the sequence, whose processes must decide alike; None if one process computes it.
    """

    def __init__(self, transformer: Any, sign: int, parts: Parts | None = None) -> None:
        self.transformer, self.sign, self.parts = transformer, sign, parts
        self.dtype: torch.dtype | None = None

    def evaluate(self, caches: Sequence[RowCache], index: int, given: DenoiserInput, call: Call) -> torch.Tensor:
        """The predictions for a batch; `caches` has the memory of each row, the rest is as in `Engine.evaluate`."""
        latents = given.latents
        each = [latents[row : row + 1] for row in range(len(latents))]

        def change(row: int) -> torch.Tensor | None:
            return caches[row].drift.measure(each[row])

        computed = decide(caches, index, [None] * len(each), change, self.parts.agreed if self.parts else list)
        for cache, own in zip(caches, each, strict=True):
            cache.drift.passed(own)
        parts = []
        if computed:
            made = call(self.transformer, given.of_rows(computed))
            self.dtype = made.dtype
            for at, row in enumerate(computed):
                if caches[row].known is None:
                    caches[row].drift.learned(each[row], made[at : at + 1])
            residual = made - self.sign * batch_rows.take(latents, computed)
            predictors.update([caches[row].hidden for row in computed], index, residual)
            parts.append((computed, made))
        if reused := batch_rows.others(computed, len(each)):
            residual = predictors.predict([caches[row].hidden for row in reused], index, latents.shape[1])
            parts.append((reused, (self.sign * batch_rows.take(latents, reused) + residual).to(self.dtype)))
        return batch_rows.put_together(parts)
