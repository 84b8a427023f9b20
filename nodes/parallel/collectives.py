"""Exchanges between processes, as torch operators with plain numbers beside their tensors.

torch.compile calls an operator and does not trace into it, so that compiled blocks keep one graph. Tensors travel as
bytes: every dtype works on every backend of torch.distributed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from math import prod
from time import perf_counter
from typing import Any

import torch
import torch.distributed as dist

from ...graph.contract.processes import Axis, Processes
from ..support import cost_meter

_all_gather: Callable[..., Any] = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
"""Its new name is that of later torches."""

Exchanges = list[tuple[Processes, int]]
"""Exchanges in their order: the run's processes, and the bytes that this one sends."""

_CAPTURED: ContextVar[Exchanges | None] = ContextVar("captured_exchanges", default=None)


@contextmanager
def capturing() -> Iterator[Exchanges]:
    """Exchanges inside `with` are part of a capture. Yields a list of them; no run is told about them."""
    found: Exchanges = []
    token = _CAPTURED.set(found)
    try:
        yield found
    finally:
        _CAPTURED.reset(token)


@dataclass(frozen=True)
class Members:
    """The processes that exchange with each other.

    Attributes:
        handle: torch's process group.
        size: Their number.
        processes: The run's processes, which are told about each exchange.
    """

    handle: Any
    size: int
    processes: Processes

    def exchange(self, sent: int, collective: Callable[..., Any], *arguments: Any, **named: Any) -> None:
        """Call a function of torch.distributed, which sends `sent` bytes of this process to others.

        A plan counts the bytes and sends nothing.
        """
        if cost_meter.sends(sent):
            return
        began = perf_counter()
        collective(*arguments, **named, group=self.handle)
        captured = _CAPTURED.get()
        if captured is not None:
            captured.append((self.processes, sent))
        else:
            self.processes.exchanged(sent, perf_counter() - began)


GROUPS: dict[str, Members] = {}
"""Processes by the name of their group: an operator takes no other values than numbers, words and tensors."""


def members(processes: Processes, axis: Axis) -> str:
    """The name in `GROUPS` of the processes along an axis of the mesh."""
    group = processes.group(axis)
    name = f"{axis} of {','.join(map(str, group.ranks))}"
    GROUPS[name] = Members(group.handle, group.size, processes)
    return name


def parts_of(count: int, ranks: int) -> tuple[int, ...]:
    """The lengths of the parts of `count` tokens or rows: as equal as they come, the longer ones first."""
    return tuple(count // ranks + (rank < count % ranks) for rank in range(ranks))


def bytes_of(tensor: torch.Tensor) -> torch.Tensor:
    """The bytes of a dense tensor, uint8 [n], in the same memory."""
    return tensor.reshape(-1).view(torch.uint8)


def _all_to_all(
    sent: torch.Tensor, sizes: Sequence[int], received: Sequence[int], rank: int, group: str
) -> torch.Tensor:
    """Send `sizes` elements of a dense tensor to each process, and receive `received` elements of each, [n]."""
    width = sent.element_size()
    out = sent.new_empty(sum(received))
    given = [[width * n for n in each] for each in (received, sizes)]
    GROUPS[group].exchange(_to_others(sent, sizes, rank), dist.all_to_all_single, bytes_of(out), bytes_of(sent), *given)
    return out


def _needs_operator(tensor: torch.Tensor) -> bool:
    """Whether an exchange must be an operator of torch, which takes longer: in a graph, or if only shapes are known."""
    return tensor.is_meta or torch.compiler.is_compiling()


def _to_others(sent: torch.Tensor, sizes: Sequence[int], rank: int) -> int:
    """The bytes that a process sends to others, of `sizes` elements to each. `sent`: a tensor of their dtype."""
    return sent.element_size() * (sum(sizes) - sizes[rank])


def first_number(processes: Processes, axis: Axis, number: int) -> int:
    """The number that the first process along an axis has, for choices that depend on time."""
    held = torch.tensor([number])
    GROUPS[members(processes, axis)].exchange(8, dist.broadcast, held, group_src=0)
    return int(held.item())


def largest(processes: Processes, axis: Axis, numbers: Sequence[int]) -> list[int]:
    """For each number, the largest that a process along an axis has. The host waits for all of them."""
    if processes.group(axis).size == 1:
        return list(numbers)
    held = torch.tensor(list(numbers))
    GROUPS[members(processes, axis)].exchange(0, dist.all_reduce, held, op=dist.ReduceOp.MAX)
    return [int(number) for number in held.tolist()]


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
        Queries, keys and values, [3, B, sum(tokens), heads[rank], D]; tokens are in the order of the processes.
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
    ranks, mine = len(heads), heads[rank]
    if len(set(heads)) == 1:  # equal parts: one copy for each tensor
        sent = query.new_empty(ranks, 3, batch, own, mine, width)
        for number, each in enumerate((query, key, value)):
            sent[:, number] = each.view(batch, own, ranks, mine, width).permute(2, 0, 1, 3, 4)
    else:
        three = [each.split(list(heads), dim=2) for each in (query, key, value)]
        sent = torch.cat([each.reshape(-1) for part in zip(*three, strict=True) for each in part])
    sizes, received = _sizes_of_heads(query, heads), [3 * batch * width * n * mine for n in tokens]
    found = _all_to_all(sent, sizes, received, rank, group)
    if len(set(tokens)) == 1:
        parts = found.view(ranks, 3, batch, own, mine, width).permute(1, 2, 0, 3, 4, 5)
        return parts.reshape(3, batch, ranks * own, mine, width).contiguous()
    split = zip(found.split(received), tokens, strict=True)
    return torch.cat([part.view(3, batch, n, mine, width) for part, n in split], dim=2)


def _sizes_of_heads(query: torch.Tensor, heads: Sequence[int]) -> list[int]:
    """Elements of queries, keys and values that go to each process."""
    return [3 * query.shape[0] * query.shape[3] * query.shape[1] * n for n in heads]


_tokens_operator = torch.library.custom_op(
    "sgd::tokens_to_heads",
    _tokens_to_heads,
    mutates_args=(),
    schema="(Tensor query, Tensor key, Tensor value, int[] tokens, int[] heads, int rank, str group) -> Tensor",
)


@_tokens_operator.register_fake
def _(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    tokens: Sequence[int],
    heads: Sequence[int],
    rank: int,
    group: str,
) -> torch.Tensor:
    batch, _, _, width = query.shape
    return query.new_empty(3, batch, sum(tokens), heads[rank], width)


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
    batch, _, mine, width = attended.shape
    ranks, own = len(tokens), tokens[rank]
    if batch == 1:  # the tokens of each process lie one after the other already
        sent = attended.contiguous()
    else:
        sent = torch.cat([part.reshape(-1) for part in attended.split(list(tokens), dim=1)])
    sizes, received = _sizes_of_tokens(attended, tokens), [batch * width * own * n for n in heads]
    found = _all_to_all(sent, sizes, received, rank, group)
    if len(set(heads)) == 1:
        parts = found.view(ranks, batch, own, mine, width).permute(1, 2, 0, 3, 4)
        return parts.reshape(batch, own, ranks * mine, width).contiguous()  # one head each: reshape makes a view
    split = zip(found.split(received), heads, strict=True)
    return torch.cat([part.view(batch, own, n, width) for part, n in split], dim=2)


def _sizes_of_tokens(attended: torch.Tensor, tokens: Sequence[int]) -> list[int]:
    """Elements of the result of attention that go to each process."""
    return [attended.shape[0] * attended.shape[3] * n * attended.shape[2] for n in tokens]


_heads_operator = torch.library.custom_op(
    "sgd::heads_to_tokens",
    _heads_to_tokens,
    mutates_args=(),
    schema="(Tensor attended, int[] tokens, int[] heads, int rank, str group) -> Tensor",
)


@_heads_operator.register_fake
def _(attended: torch.Tensor, tokens: Sequence[int], heads: Sequence[int], rank: int, group: str) -> torch.Tensor:
    batch, _, _, width = attended.shape
    return attended.new_empty(batch, tokens[rank], sum(heads), width)


@torch.library.custom_op(
    "sgd::gather_parts",
    mutates_args=(),
    schema="(Tensor part, int dim, int[] lengths, int rank, str group) -> Tensor",
)
def gather_parts(part: torch.Tensor, dim: int, lengths: Sequence[int], rank: int, group: str) -> torch.Tensor:
    """The parts of all processes along a dimension, one after the other.

    Args:
        part: The own part.
        dim: The dimension, from 0.
        lengths: Lengths of all parts.
        rank: The number of this process in the group.
        group: Name of the group.

    Returns:
        A new tensor, dense.
    """
    parts = stacked(part.movedim(dim, 0), max(lengths), group)
    whole = torch.cat([own[:length] for own, length in zip(parts, lengths, strict=True)])
    return whole.movedim(0, dim).contiguous()


@gather_parts.register_fake
def _(part: torch.Tensor, dim: int, lengths: Sequence[int], rank: int, group: str) -> torch.Tensor:
    return part.new_empty(*part.shape[:dim], sum(lengths), *part.shape[dim + 1 :])


def stacked(part: torch.Tensor, length: int, group: str) -> torch.Tensor:
    """The parts of all processes, [n, ...], filled up to one length: [processes, length, ...]."""
    if len(part) < length:
        part = torch.cat([part, part.new_zeros(length - len(part), *part.shape[1:])])
    part = part.contiguous()
    found = GROUPS[group]
    out = part.new_empty(found.size, *part.shape)
    sent = part.numel() * part.element_size() * (found.size - 1)
    found.exchange(sent, _all_gather, bytes_of(out), bytes_of(part))
    return out


def _gathered_bytes(part: torch.Tensor, dim: int, lengths: Sequence[int], rank: int, group: str) -> int:
    row = prod(size for place, size in enumerate(part.shape) if place != dim)
    return row * max(lengths) * part.element_size() * (len(lengths) - 1)


cost_meter.SENT |= {
    torch.ops.sgd.tokens_to_heads: lambda query, key, value, tokens, heads, rank, group: _to_others(
        query, _sizes_of_heads(query, heads), rank
    ),
    torch.ops.sgd.heads_to_tokens: lambda attended, tokens, heads, rank, group: _to_others(
        attended, _sizes_of_tokens(attended, tokens), rank
    ),
    torch.ops.sgd.gather_parts: _gathered_bytes,
}
