"""Exchanges of heads between processes, which are threads here: each rank has the right tokens and heads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import pytest
import torch
from sgd.nodes.parallel import collectives


class Exchange:
    """`all_to_all_single` between threads: each waits until all have given their bytes."""

    def __init__(self, ranks: int) -> None:
        self.barrier, self.given = Barrier(ranks, timeout=20), dict[int, Sequence[torch.Tensor]]()

    def member(self, rank: int) -> Any:
        exchange = self

        class Member:
            def exchange(self, sent: int, collective: Any, out: Any, given: Any, receive: Any, send: Any) -> None:
                exchange.given[rank] = given.split(list(send))
                exchange.barrier.wait()
                parts = [exchange.given[other][rank] for other in range(len(send))]
                assert [len(part) for part in parts] == list(receive)
                out.copy_(torch.cat(parts))
                exchange.barrier.wait()

        return Member()


def in_ranks(monkeypatch: pytest.MonkeyPatch, ranks: int, call: Callable[[int, str], torch.Tensor]) -> list[Any]:
    exchange = Exchange(ranks)
    for rank in range(ranks):
        monkeypatch.setitem(collectives.GROUPS, f"rank {rank}", exchange.member(rank))
    with ThreadPoolExecutor(ranks) as pool:
        return list(pool.map(lambda rank: call(rank, f"rank {rank}"), range(ranks)))


@pytest.mark.parametrize("tokens", [(4, 3, 2), (3, 3, 3), (2, 2, 1), (1, 1, 1)])
@pytest.mark.parametrize("heads", [(2, 2, 2), (2, 1, 1), (1, 1, 1)])
@pytest.mark.parametrize("batch", [1, 2])
def test_heads_and_tokens_of_parts_with_any_lengths(monkeypatch, tokens, heads, batch):
    """The middle process of three may have a third of the tokens though the others do not.

    Results are dense, as compiled graphs expect.
    """
    three = torch.randn(3, batch, sum(tokens), sum(heads), 5)
    by_token, by_head = three.split(tokens, dim=2), three.split(heads, dim=3)

    def to_heads(rank: int, group: str) -> torch.Tensor:
        query, key, value = by_token[rank].unbind(0)
        return collectives.tokens_to_heads(query, key, value, tokens, heads, rank, group)

    for found, wanted in zip(in_ranks(monkeypatch, 3, to_heads), by_head, strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=0)
        assert found.is_contiguous()

    def to_tokens(rank: int, group: str) -> torch.Tensor:
        return collectives.heads_to_tokens(by_head[rank][0], tokens, heads, rank, group)

    for found, wanted in zip(in_ranks(monkeypatch, 3, to_tokens), by_token, strict=True):
        torch.testing.assert_close(found, wanted[0], rtol=0, atol=0)
        assert found.is_contiguous()
