"""The memory of one stack of blocks for the rows of a batch: which are computed, and what is added for the others."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from ...support import batch_rows
from ..gate import Signal
from . import predictors
from .gated_component import Parts
from .kept_rows import keep, own
from .row_cache import RowCache
from .row_cache import decide as decide_rows
from .signals import relative_change

Streams = tuple[torch.Tensor, torch.Tensor | None]
"""Hidden states [B, tokens, width], and the stream of text [B, length, width] where blocks have one."""


class StackMemory:
    """What a stack remembers of earlier steps, and the rows of the step at hand.

    Args:
        signal: The signal that the gate compares.
        keeps_text: Whether something reads the stream of text after the middle blocks.
        parts: The parts of the sequence; None if one process computes it.

    Attributes:
        caches: The memory of each row of the batch.
        index: The step.
        lengths: The rows' numbers of tokens without padding; None until a call tells them.
        own_lengths: The same of this process's part of the sequence.
        tokens: The number of tokens of all parts together; `CutStack` sets it.
    """

    def __init__(self, signal: Signal, keeps_text: bool, parts: Parts | None = None) -> None:
        self.signal, self.keeps_text, self.parts = signal, keeps_text, parts
        self.caches: Sequence[RowCache] = ()
        self.lengths: Sequence[int] | None = None
        self.own_lengths: Sequence[int] = ()
        self.tokens = 0
        self.index = -1

    def use(self, caches: Sequence[RowCache], index: int, lengths: Sequence[int] | None) -> None:
        """Choose the rows and the step of the next call."""
        self.caches, self.index, self.lengths = caches, index, lengths

    def measures(self, signal: Signal) -> bool:
        """Whether the gate compares this signal, and the decisions do not follow from the schedule alone."""
        return self.signal == signal and any(cache.known is None for cache in self.caches)

    def decide(self, signal: torch.Tensor | None, tokens: int) -> list[int]:
        """The rows that are computed at this step; numbers are read from the device if the rule decides."""
        caches, parts = self.caches, self.parts
        lengths = self.lengths or [tokens if parts is None else self.tokens] * len(caches)
        own_lengths = lengths if parts is None else [parts.own(length) for length in lengths]
        self.lengths, self.own_lengths = lengths, own_lengths
        relative = relative_change if parts is None else parts.relative_change

        def change(row: int) -> torch.Tensor:
            compared = caches[row].compared
            assert signal is not None, "the gate measures the signal of its rule"
            assert compared is not None, "the first step is computed"
            return relative(compared.own, own(signal, row, own_lengths[row]))

        computed = decide_rows(caches, self.index, lengths, change)
        # An input is compared with the last step; a residual with the last computed step.
        rows = range(len(caches)) if self.signal == "modulated" else computed
        if signal is not None and rows:
            before = [caches[row].compared for row in rows]
            kept = keep(before, batch_rows.gather(signal, rows), [own_lengths[row] for row in rows])
            for row, compared in zip(rows, kept, strict=True):
                caches[row].compared = compared
        return computed

    def remember(self, computed: Sequence[int], before: Streams, after: Streams) -> None:
        """Keep the residual of the middle blocks, of the rows of which a later step may need it."""
        places = [at for at, row in enumerate(computed) if self.caches[row].remembers(self.index)]
        if not places:
            return
        assert self.lengths is not None, "the decision comes first"
        rows = [computed[at] for at in places]
        (hidden, text), (hidden_before, text_before) = some_of(after, places), some_of(before, places)
        for row in rows:
            if self.caches[row].length != self.lengths[row]:
                self.caches[row].hidden.derivatives = []  # of a row of another size, which a part may not show
                self.caches[row].length = self.lengths[row]
        lengths = [self.own_lengths[row] for row in rows]
        predictors.update([self.caches[row].hidden for row in rows], self.index, hidden - hidden_before, lengths)
        if self.keeps_text:
            predictors.update([self.caches[row].text for row in rows], self.index, text - text_before)  # type: ignore[operator]

    def predicted(self, reused: Sequence[int], streams: Streams) -> Streams:
        """The streams of some rows after the middle blocks: their predicted residual is added, and no block runs."""
        hidden, text = streams
        caches = [self.caches[row] for row in reused]
        if self.keeps_text and text is not None:
            text = predictors.predict([cache.text for cache in caches], self.index, text.shape[1]) + text
        return predictors.predict([cache.hidden for cache in caches], self.index, hidden.shape[1]) + hidden, text


def some_of(
    streams: Streams,
    rows: Sequence[int],
    select: Callable[[torch.Tensor, Sequence[int]], torch.Tensor] = batch_rows.take,
) -> Streams:
    """Some rows of both streams."""
    hidden, text = streams
    return select(hidden, rows), None if text is None else select(text, rows)
