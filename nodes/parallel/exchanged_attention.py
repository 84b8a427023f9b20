"""Attention over the tokens of all processes, as a backend of diffusers around the chosen one.

Ulysses: before attention each process gives up heads for tokens, so that it has some heads of all tokens; after it, the
reverse. Ring: keys and values are gathered. With both, heads are exchanged within a column and keys gathered along a
row. The chosen backend is called once, with all keys.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

from ..models.ranks.collectives import gather_parts, parts_of
from .head_exchange import heads_to_tokens, tokens_to_heads
from .sequence_group import SequenceGroup


@dataclass(frozen=True)
class Exchange:
    """The parts, as attention needs them.

    Attributes:
        group: The processes.
        tokens: Tokens of each process that take part in attention: those of all cut streams.
    """

    group: SequenceGroup
    tokens: tuple[int, ...]

    @property
    def column(self) -> tuple[int, ...]:
        """Tokens of the processes with which this one exchanges heads."""
        return self.tokens[self.group.place % self.group.ring :: self.group.ring]


_now: Exchange | None = None


@contextmanager
def exchanging(attentions: Sequence[Any], exchange: Exchange) -> Iterator[None]:
    """Let attention modules attend to the tokens of all processes inside `with`.

    Args:
        attentions: Modules with a processor of diffusers.
        exchange: The parts.
    """
    global _now
    from diffusers.models.attention_dispatch import _AttentionBackendRegistry as Registry

    processors = [attention.processor for attention in attentions]
    chosen = [processor._attention_backend for processor in processors]
    default, _ = Registry.get_active_backend()
    for processor, backend in zip(processors, chosen, strict=True):
        processor._attention_backend = _around(backend or default)
    before, _now = _now, exchange
    try:
        yield
    finally:
        _now = before
        for processor, backend in zip(processors, chosen, strict=True):
            processor._attention_backend = backend


@cache
def _around(backend: Any) -> Any:
    """The member of diffusers' enumeration of backends that exchanges, and calls `backend`."""
    from diffusers.models.attention_dispatch import AttentionBackendName, _AttentionBackendRegistry

    inner = backend if isinstance(backend, AttentionBackendName) else AttentionBackendName(backend)
    name = f"_sgd_exchanged_{inner.value}"
    member = str.__new__(AttentionBackendName, name)
    member._name_ = member._value_ = name
    AttentionBackendName._value2member_map_[name] = member

    def attend(
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attn_mask: torch.Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
        _parallel_config: Any = None,
    ) -> torch.Tensor:
        if is_causal or dropout_p or enable_gqa or query.shape[2] != key.shape[2]:
            raise ValueError("attention over several processes has equal heads, no causal mask and no dropout")
        return _attended(query, key, value, attn_mask, scale, inner)

    _AttentionBackendRegistry.register(member)(attend)
    return member


def _attended(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    scale: float | None,
    backend: Any,
) -> torch.Tensor:
    """Attention of the own queries to the keys of all processes.

    Args:
        query: The own tokens, [B, tokens, heads, D]; keys and values have the same shape.
        key: See `query`.
        value: See `query`.
        mask: A mask of the own tokens as keys, [B, 1, 1, tokens]; None without a mask.
        scale: Factor on the scores.
        backend: Attends.

    Returns:
        [B, tokens, heads, D].
    """
    from diffusers.models.attention_dispatch import dispatch_attention_fn

    now = _now
    assert now is not None, "the stack of blocks sets it"
    group, tokens = now.group, now.tokens
    heads = parts_of(query.shape[2], group.ulysses)
    rank = group.place // group.ring
    if group.ulysses > 1:
        query, key, value = tokens_to_heads(query, key, value, now.column, heads, rank, group.column).unbind(0)
    if group.ring > 1:
        both = torch.stack([key, value])
        key, value = gather_parts(both, 2, group.columns(tokens), group.place % group.ring, group.row).unbind(0)
    if mask is not None:
        if mask.ndim != 4 or mask.shape[1:3] != (1, 1):
            raise ValueError(f"attention over several processes takes masks of keys alone, not {tuple(mask.shape)}")
        mask = group.keys_of_row(mask, 3, tokens)
    made = dispatch_attention_fn(query, key, value, attn_mask=mask, scale=scale, backend=backend)
    if group.ulysses > 1:
        made = heads_to_tokens(made, now.column, heads, rank, group.column)
    return made
