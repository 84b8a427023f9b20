"""Exchanges of heads between processes, which are threads here: each rank has the right tokens and heads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import pytest
import torch
from sgd.nodes.models.ranks import collectives
from sgd.nodes.parallel import head_exchange


class Exchange:
    """`all_to_all_single` between threads: each waits until all have given their bytes."""

    def __init__(self, ranks: int) -> None:
        self.barrier, self.given = Barrier(ranks, timeout=20), dict[int, Sequence[torch.Tensor]]()

    def member(self, rank: int) -> Any:
        exchange = self

        class Member:
            def exchange(self, sent: int, collective: Any, *arguments: Any) -> None:
                collective(*arguments, group=self)

            def all_to_all(self, out: Any, given: Any, receive: Any, send: Any) -> None:
                exchange.given[rank] = given.split(list(send))
                exchange.barrier.wait()
                parts = [exchange.given[other][rank] for other in range(len(send))]
                assert [len(part) for part in parts] == list(receive)
                out.copy_(torch.cat(parts))
                exchange.barrier.wait()

        return Member()


class Done:
    """An exchange that has ended."""

    def wait(self) -> None:
        pass


def all_to_all_single(*arguments: Any, group: Any, async_op: bool) -> Done:
    group.all_to_all(*arguments)
    return Done()


def in_ranks(monkeypatch: pytest.MonkeyPatch, ranks: int, call: Callable[[int, str], torch.Tensor]) -> list[Any]:
    exchange = Exchange(ranks)
    monkeypatch.setattr(head_exchange.dist, "all_to_all_single", all_to_all_single)
    for rank in range(ranks):
        monkeypatch.setitem(collectives.GROUPS, f"rank {rank}", exchange.member(rank))
    with ThreadPoolExecutor(ranks) as pool:
        return list(pool.map(lambda rank: call(rank, f"rank {rank}"), range(ranks)))


@pytest.mark.parametrize("tokens", [(4, 3, 2), (3, 3, 3), (2, 2, 1), (1, 1, 1)])
@pytest.mark.parametrize("heads", [(2, 2, 2), (2, 1, 1), (1, 1, 1)])
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("width", [5, 8])
@pytest.mark.parametrize("together", [True, False], ids=["side by side", "apart"])
def test_heads_and_tokens_of_parts_with_any_lengths(monkeypatch, tokens, heads, batch, width, together):
    """The middle process of three may have a third of the tokens though the others do not.

    Results lie in memory as compiled graphs expect: as those of the operators on the meta device.
    """
    shape = (batch, sum(tokens), 3, sum(heads), width)
    three = torch.randn(shape).movedim(2, 0)
    by_token, by_head = three.split(tokens, dim=2), three.split(heads, dim=3)

    def to_heads(rank: int, group: str) -> torch.Tensor:
        own = by_token[rank] if together else by_token[rank].contiguous()
        if tokens[rank] > 1 or together:
            assert (head_exchange.neighbours(own.unbind(0)) is not None) == together
        query, key, value = own.unbind(0)
        return head_exchange.tokens_to_heads(query, key, value, tokens, heads, rank, group)

    for rank, found in enumerate(in_ranks(monkeypatch, 3, to_heads)):
        torch.testing.assert_close(found, by_head[rank], rtol=0, atol=0)
        query, key, value = by_token[rank].to("meta").unbind(0)
        planned = head_exchange.tokens_to_heads(query, key, value, tokens, heads, rank, "")
        assert found.stride() == planned.stride()

    def to_tokens(rank: int, group: str) -> torch.Tensor:
        return head_exchange.heads_to_tokens(by_head[rank][0], tokens, heads, rank, group)

    for found, wanted in zip(in_ranks(monkeypatch, 3, to_tokens), by_token, strict=True):
        torch.testing.assert_close(found, wanted[0], rtol=0, atol=0)
        assert found.is_contiguous()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_wide_copies_have_the_same_bits(dtype):
    """Infinite values and values that are not numbers included."""
    numbers = torch.tensor([float("nan"), float("inf"), -float("inf"), 1.0, -0.0, 2.0, 3.0, 4.0]).to(dtype)
    source, target = numbers.expand(6, 4, 8).contiguous()[:, 1:3], torch.zeros(6, 3, 8, dtype=dtype)[:, 1:]
    assert head_exchange._is_wide(source)
    head_exchange.copy_wide(target, source)
    assert torch.equal(target.contiguous().view(torch.uint8), source.contiguous().view(torch.uint8))
