"""Blocks on a part of the tokens: cut before the first block, gathered after the last.

A stand-in takes the place of a list of blocks for the length of one forward, as that of a cache gate does. Behind it
stand the blocks themselves, or the stand-in of a gate.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from inspect import signature
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

import torch

from ..cache.engine.engine import BlockCall, Stack, exchanged
from ..families.sequence_cut import Along
from ..models.ranks.collectives import parts_of
from .exchanged_attention import Exchange, exchanging
from .sequence_group import SequenceGroup

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..families.base import Blocks, Family


class Chain(torch.nn.Module):
    """All blocks of some lists, one after the other, as one block."""

    def __init__(self, blocks: Sequence[torch.nn.Module], layout: Blocks) -> None:
        super().__init__()
        self.blocks, self.layout = torch.nn.ModuleList(blocks), layout

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        call = BlockCall(self.layout, args, kwargs)
        return call.returned(call.through(list(self.blocks), call.given))


class CutStack(torch.nn.Module):
    """A module in place of some blocks, which computes them on the own part of the tokens.

    Args:
        inner: Takes and returns what a block does: a `Chain`, or the stand-in of a gate.
        blocks: The blocks behind it.
        family: What is cut, and which attentions exchange.
        group: The processes.
        once: Values of rebuilt blocks in one forward; None if the blocks are diffusers' own.
        last: Nothing reads the stream of text after these blocks.
    """

    def __init__(
        self,
        inner: torch.nn.Module,
        blocks: Sequence[torch.nn.Module],
        family: Family,
        group: SequenceGroup,
        once: Any,
        last: bool,
    ) -> None:
        super().__init__()
        self.inner, self.family, self.group, self.once, self.last = inner, family, group, once, last
        self.attentions = [getattr(block, name) for block in blocks for name in family.sequence.exchanges]
        self.names = list(signature(blocks[0].forward).parameters)
        self.named = {name: family.sequence.arguments[name] for name in self.names if name in family.sequence.arguments}

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        layout, group = self.family.blocks, self.group
        cuts_text = self.family.sequence.text
        hidden, text = BlockCall(layout, args, kwargs).given
        counts = {"hidden": hidden.shape[1], "text": text.shape[1] if cuts_text and text is not None else 0}
        own = [self._cut(name, value, counts) for name, value in zip_longest(self.names[: len(args)], args)]
        own_named = {name: self._cut(name, value, counts) for name, value in kwargs.items()}
        tokens = [parts_of(count, group.size) for count in counts.values()]
        if isinstance(self.inner, Stack):
            self.inner.memory.tokens = counts["hidden"]
        exchange = Exchange(group, tuple(map(sum, zip(*tokens, strict=True))))
        with exchanging(self.attentions, exchange), self._rebuilt(counts["hidden"]):
            made = self.inner(*own, **own_named)
        if len(layout.returns) == 1:
            return group.gather(made, counts["hidden"])
        found = dict(zip(layout.returns, made, strict=True))
        found["hidden"] = group.gather(found["hidden"], counts["hidden"])
        if not self.last:
            found["text"] = group.gather(found["text"], counts["text"])
        return tuple(found[name] for name in layout.returns)

    def _cut(self, name: str | None, value: Any, counts: dict[str, int]) -> Any:
        """The own part of an argument; other arguments as they are."""
        streams = self.names[: 1 + self.family.blocks.takes_text]
        if name == streams[0]:
            return self.group.cut(value, 1)
        if name in streams:
            return self.group.cut(value, 1) if self.family.sequence.text else value
        along = self.named.get(name) if name is not None else None
        if along is None or value is None:
            return value
        if isinstance(value, torch.Tensor):
            assert isinstance(along, Along)
            return self._part(value, along, counts)
        entries = [along] * len(value) if isinstance(along, Along) else along
        return tuple(self._part(each, entry, counts) for each, entry in zip(value, entries, strict=True))

    def _part(self, value: torch.Tensor, along: Along, counts: dict[str, int]) -> torch.Tensor:
        dim = along.dimension % value.ndim
        if along.rank not in (None, value.ndim):
            return value
        if len(along.streams) == 1:
            return self.group.cut(value, dim)
        sizes = [counts[stream] for stream in along.streams]
        return torch.cat([self.group.cut(part, dim) for part in value.split(sizes, dim)], dim)

    @contextmanager
    def _rebuilt(self, count: int) -> Iterator[None]:
        """Tell rebuilt blocks that they have a part of `count` tokens."""
        once = self.once
        if once is None:
            yield
            return
        first = once.first_rows
        once.cut, once.first_rows = True, self.group.own(first)
        try:
            yield
        finally:
            once.cut, once.first_rows = False, first


@dataclass(frozen=True)
class CutSequence:
    """A sequence that several processes compute together: the `Parts` of a gated component.

    Attributes:
        group: The processes.
    """

    group: SequenceGroup

    def own(self, count: int) -> int:
        return self.group.own(count)

    def cut(self, tensor: torch.Tensor, dim: int) -> torch.Tensor:
        return self.group.cut(tensor, dim)

    def relative_change(self, before: torch.Tensor, now: torch.Tensor) -> torch.Tensor:
        return self.group.relative_change(before, now)

    def agreed(self, numbers: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
        return self.group.agreed(numbers)

    def around(
        self, transformer: Any, family: Family, inner: torch.nn.Module, lists: Sequence[Any], last: bool
    ) -> torch.nn.Module:
        blocks = [block for blocks in lists for block in blocks]
        return CutStack(inner, blocks, family, self.group, vars(transformer).get("once"), last)

    def others(self, transformer: Any, family: Family) -> Mapping[str, torch.nn.ModuleList]:
        found = {}
        for name in family.sequence.others:
            blocks = getattr(transformer, name)
            chain = Chain(list(blocks), family.blocks)
            stand_ins = [self.around(transformer, family, chain, [blocks], True)] if len(blocks) else []
            found[name] = torch.nn.ModuleList(stand_ins)
        return found


class CutTransformer:
    """A transformer whose blocks have a part of the tokens: the same attributes, and a call with stand-ins.

    Args:
        transformer: The module; it is as before between calls.
        family: Its family.
        sequence: The sequence.
    """

    def __init__(self, transformer: Any, family: Family, sequence: CutSequence) -> None:
        self.transformer = transformer
        first, *others = family.blocks.lists
        lists = [getattr(transformer, name) for name in (first, *others)]
        chain = Chain([block for blocks in lists for block in blocks], family.blocks)
        stand_in = sequence.around(transformer, family, chain, lists, True)
        empty = {name: torch.nn.ModuleList() for name in others}
        self.stand_ins = {first: torch.nn.ModuleList([stand_in]), **empty, **sequence.others(transformer, family)}

    def __getattr__(self, name: str) -> Any:
        return getattr(self.transformer, name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return exchanged(self.transformer, self.stand_ins, *args, **kwargs)
