"""Exchanges of heads for tokens, and back: an all-to-all around attention, with one copy on each side at most.

In the sent memory, queries, keys and values of a token stand side by side, so that received tokens need no copy.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from ..models.ranks.collectives import GROUPS, bytes_of
from ..support import cost_meter

WIDE = torch.complex128
"""The dtype whose numbers have 16 bytes: copies of strided rows are up to three times as fast with it."""


@dataclass(frozen=True)
class _Parts:
    """The elements that a process exchanges with all others at once.

    If the parts of all others lie in one piece, the own part need not pass through the exchange. This is so without a
    batch, in the first and in the last process.

    Attributes:
        sizes: Elements for each process.
        received: Elements from each process.
        rank: The number of this process.
        group: Name of the group.
        stays: Whether the own part is copied directly.
    """

    sizes: Sequence[int]
    received: Sequence[int]
    rank: int
    group: str
    stays: bool

    @property
    def others(self) -> Sequence[int]:
        """The numbers of the processes to which something is sent."""
        return [rank for rank in range(len(self.sizes)) if not (self.stays and rank == self.rank)]

    def empty(self, like: torch.Tensor) -> list[torch.Tensor]:
        """Memory for the elements to send, [n] for each of `others`, in one piece."""
        sizes = [self.sizes[rank] for rank in self.others]
        return list(like.new_empty(sum(sizes)).split(sizes))

    def exchange(self, sent: Sequence[torch.Tensor], own: Callable[[torch.Tensor], None]) -> torch.Tensor:
        """Send and receive.

        Args:
            sent: The filled memory of `empty`.
            own: Writes the own part into its place, [received[rank]], while the others' parts are on their way.

        Returns:
            The received elements, [sum(received)], in the order of the processes.
        """
        whole = sent[0].new_empty(sum(self.received))
        parts, given = whole.split(list(self.received)), [list(self.received), list(self.sizes)]
        out = whole
        if self.stays:
            first = len(parts[0]) if self.rank == 0 else 0
            out = whole[first : first + len(whole) - len(parts[self.rank])]
            for each in given:
                each[self.rank] = 0
        width = whole.element_size()
        lengths = [[width * n for n in each] for each in given]

        def both(out: torch.Tensor, sent: torch.Tensor, received: list[int], sizes: list[int], group: Any) -> None:
            waiting = dist.all_to_all_single(out, sent, received, sizes, group=group, async_op=True)
            if self.stays:
                own(parts[self.rank])
            waiting.wait()

        flat = sent[0].as_strided((sum(map(len, sent)),), (1,))
        GROUPS[self.group].exchange(
            _to_others(whole, self.sizes, self.rank), both, bytes_of(out), bytes_of(flat), *lengths
        )
        return whole


def _needs_operator(tensor: torch.Tensor) -> bool:
    """Whether an exchange must be an operator of torch, which takes longer: under torch.compile, or on meta tensors."""
    return tensor.is_meta or torch.compiler.is_compiling()


def _to_others(sent: torch.Tensor, sizes: Sequence[int], rank: int) -> int:
    """The bytes that a process sends to others, of `sizes` elements to each. `sent`: a tensor of their dtype."""
    return sent.element_size() * (sum(sizes) - sizes[rank])


def tokens_to_heads(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    tokens: Sequence[int],
    heads: Sequence[int],
    rank: int,
    group: str,
) -> torch.Tensor:
    """Give up other heads of the own tokens, and receive the own heads of all tokens.

    Args:
        query: [B, tokens[rank], sum(heads), D]; keys and values have the same shape.
        key: See `query`.
        value: See `query`.
        tokens: Tokens of each process of the group.
        heads: Heads that each process attends with.
        rank: The number of this process in the group.
        group: Name of the group.

    Returns:
        Queries, keys and values, [3, B, sum(tokens), heads[rank], D]; tokens are in the order of the processes. In
        memory the three stand side by side for each token.
    """
    called = _tokens_operator if _needs_operator(query) else _tokens_to_heads
    found: torch.Tensor = called(query, key, value, tokens, heads, rank, group)
    return found


def _tokens_to_heads(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    tokens: Sequence[int],
    heads: Sequence[int],
    rank: int,
    group: str,
) -> torch.Tensor:
    batch, own, _, width = query.shape
    mine, three = heads[rank], neighbours((query, key, value))
    received = [3 * batch * width * n * mine for n in tokens]
    parts = _Parts(_sizes_of_heads(query, heads), received, rank, group, _stays(batch, rank, tokens))

    def pack(target: torch.Tensor, rank: int) -> None:
        first, count = sum(heads[:rank]), heads[rank]
        target = target.view(batch, own, 3, count, width)
        if three is not None:
            copy_wide(target, three[:, :, :, first : first + count])
            return
        for number, each in enumerate((query, key, value)):
            copy_wide(target[:, :, number], each[:, :, first : first + count])

    sent = parts.empty(query)
    for target, other in zip(sent, parts.others, strict=True):
        pack(target, other)
    found = parts.exchange(sent, lambda target: pack(target, rank))
    if batch == 1:  # the parts lie one after the other already
        whole = found.view(1, sum(tokens), 3, mine, width)
    else:
        split = zip(found.split(received), tokens, strict=True)
        whole = torch.cat([part.view(batch, n, 3, mine, width) for part, n in split], dim=1)
    return whole.permute(2, 0, 1, 3, 4)


def _stays(batch: int, rank: int, parts: Sequence[int]) -> bool:
    """Whether the own part need not pass through the exchange; see `_Parts`."""
    return batch == 1 and rank in (0, len(parts) - 1)


def _sizes_of_heads(query: torch.Tensor, heads: Sequence[int]) -> list[int]:
    """Elements of queries, keys and values that go to each process."""
    return [3 * query.shape[0] * query.shape[3] * query.shape[1] * n for n in heads]


_tokens_operator = torch.library.custom_op(
    "sgd::tokens_to_heads",
    _tokens_to_heads,
    mutates_args=(),
    schema="(Tensor query, Tensor key, Tensor value, int[] tokens, int[] heads, int rank, str group) -> Tensor",
)


_tokens_operator.register_fake(
    lambda query, key, value, tokens, heads, rank, group: query.new_empty(
        len(query), sum(tokens), 3, heads[rank], query.shape[3]
    ).permute(2, 0, 1, 3, 4)
)


def heads_to_tokens(
    attended: torch.Tensor, tokens: Sequence[int], heads: Sequence[int], rank: int, group: str
) -> torch.Tensor:
    """The reverse of `tokens_to_heads`, for one tensor.

    Args:
        attended: [B, sum(tokens), heads[rank], D].
        tokens: Tokens of each process of the group.
        heads: Heads of each.
        rank: The number of this process in the group.
        group: Name of the group.

    Returns:
        [B, tokens[rank], sum(heads), D].
    """
    called = _heads_operator if _needs_operator(attended) else _heads_to_tokens
    found: torch.Tensor = called(attended, tokens, heads, rank, group)
    return found


def _heads_to_tokens(
    attended: torch.Tensor, tokens: Sequence[int], heads: Sequence[int], rank: int, group: str
) -> torch.Tensor:
    batch, _, _, width = attended.shape
    own = tokens[rank]
    received = [batch * width * own * n for n in heads]
    parts = _Parts(_sizes_of_tokens(attended, tokens), received, rank, group, _stays(batch, rank, tokens))
    made = attended.new_empty(batch, own, sum(heads), width)

    def place(part: torch.Tensor, rank: int) -> None:
        first, count = sum(heads[:rank]), heads[rank]
        copy_wide(made[:, :, first : first + count], part.view(batch, own, count, width))

    given = attended.split(list(tokens), dim=1)
    if batch == 1:  # the tokens of each process lie one after the other already
        dense = attended.contiguous().view(-1).split(list(parts.sizes))
        sent = [dense[other] for other in parts.others]
    else:
        sent = parts.empty(attended)
        for target, other in zip(sent, parts.others, strict=True):
            copy_wide(target.view(given[other].shape), given[other])
    found = parts.exchange(sent, lambda _: place(given[rank].contiguous(), rank)).split(received)
    for other in parts.others:
        place(found[other], other)
    return made


def _sizes_of_tokens(attended: torch.Tensor, tokens: Sequence[int]) -> list[int]:
    """Elements of the result of attention that go to each process."""
    return [attended.shape[0] * attended.shape[3] * n * attended.shape[2] for n in tokens]


_heads_operator = torch.library.custom_op(
    "sgd::heads_to_tokens",
    _heads_to_tokens,
    mutates_args=(),
    schema="(Tensor attended, int[] tokens, int[] heads, int rank, str group) -> Tensor",
)


_heads_operator.register_fake(
    lambda attended, tokens, heads, rank, group: attended.new_empty(
        len(attended), tokens[rank], sum(heads), attended.shape[3]
    )
)


def neighbours(three: Sequence[torch.Tensor]) -> torch.Tensor | None:
    """Tensors [B, S, H, D] that stand side by side for each token, as one [B, S, n, H, D]; None if they do not."""
    first = three[0]
    batch, length, heads, width = first.shape
    step = heads * width
    store, strides = first.untyped_storage().data_ptr(), first.stride()
    if strides[2:] != (width, 1) or (length > 1 and strides[1] < len(three) * step):
        return None
    for number, each in enumerate(three):
        place = first.storage_offset() + number * step
        if each.untyped_storage().data_ptr() != store or each.stride() != strides or each.storage_offset() != place:
            return None
    return first.as_strided((batch, length, len(three), heads, width), (*strides[:2], step, width, 1))


def copy_wide(target: torch.Tensor, source: torch.Tensor) -> None:
    """Copy rows [..., D] of the same shape and dtype, 16 bytes at a time where the rows allow it."""
    if _is_wide(target) and _is_wide(source):
        target, source = target.view(WIDE), source.view(WIDE)
    target.copy_(source)


def _is_wide(rows: torch.Tensor) -> bool:
    """Whether rows can be seen as numbers of 16 bytes."""
    size = rows.element_size()
    places = rows.shape[-1], rows.storage_offset(), *rows.stride()[:-1]
    return rows.stride(-1) == 1 and not any(place * size % WIDE.itemsize for place in places)


cost_meter.SENT |= {
    torch.ops.sgd.tokens_to_heads: lambda query, key, value, tokens, heads, rank, group: _to_others(
        query, _sizes_of_heads(query, heads), rank
    ),
    torch.ops.sgd.heads_to_tokens: lambda attended, tokens, heads, rank, group: _to_others(
        attended, _sizes_of_tokens(attended, tokens), rank
    ),
}
