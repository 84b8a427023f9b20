"""`SequenceCut`: what of a call of a block is cut where several processes compute one sequence. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Stream = Literal["hidden", "text"]


@dataclass(frozen=True)
class Along:
    """The dimension of tokens of an argument of a block.

    Attributes:
        dimension: The dimension, which may count from the end.
        streams: The streams whose tokens stand in it, one after the other.
        rank: Only tensors with this many dimensions have tokens; None for all.
    """

    dimension: int
    streams: tuple[Stream, ...] = ("hidden",)
    rank: int | None = None


@dataclass(frozen=True)
class SequenceCut:
    """How the blocks of a family work on a part of the tokens.

    The hidden states of a block are always cut. All work between two attentions is that of single tokens.

    Attributes:
        exchanges: Names of a block's attention modules whose tokens attend to the tokens of all parts.
        text: Whether the stream of text is cut too. If not, each part has the whole text.
        arguments: The further arguments of a block that are cut, by their names. An argument that is a tuple has one
            entry for each of its items, or one for all.
        others: Lists of blocks that `Blocks.lists` does not name, and whose hidden states are cut too.
    """

    exchanges: tuple[str, ...]
    text: bool = False
    arguments: Mapping[str, Along | tuple[Along, ...]] = field(default_factory=dict)
    others: tuple[str, ...] = ()
