"""Blocks of a joint sequence of text and image, as FLUX.1, HunyuanVideo and Qwen-Image have them.

`TwoStreams` has weights of its own for text and image, which meet in attention. `OneStream` has one set of weights and
computes attention and feed-forward side by side. Both take and return one buffer of both streams; the families' modules
know the order of the streams and the names of the layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import Linear, Module

from ..row_kernels import products, rows
from ..row_kernels.products import Part
from .block_parts import NormWeights, Once, Positions, attend, known, modulation, outputs, rms_weight

Streams = tuple[torch.Tensor, torch.Tensor]
"""The two streams as the blocks of diffusers return them, each [B, tokens, D]."""


@dataclass(frozen=True)
class Layers:
    """The layers of one stream of a block.

    Attributes:
        modulation: Makes six vectors from the embedding of the timestep: shift, scale and gate of attention, then of
            the feed-forward.
        qkv: Projections to queries, keys and values.
        query_norm: Root-mean-square norm of queries.
        key_norm: The same for keys.
        out: Projection of the attention's result.
        up: First layer of the feed-forward, before GELU by the tanh formula.
        down: Second layer of the feed-forward.
    """

    modulation: Linear
    qkv: tuple[Linear, Linear, Linear]
    query_norm: Module
    key_norm: Module
    out: Linear
    up: Linear
    down: Linear

    def fits(self) -> bool:
        """Whether a product may read the weights of all layers; modulation is not quantised."""
        layers = *self.qkv, self.out, self.up, self.down
        return products.plain(self.modulation) and known(*layers) and rms_weight(self.query_norm)


def image_layers(attention: Any, modulation: Linear, feed_forward: Any) -> Layers:
    """The layers of the image stream, by the names that the attention modules of all families have for them."""
    return Layers(
        modulation,
        (attention.to_q, attention.to_k, attention.to_v),
        attention.norm_q,
        attention.norm_k,
        attention.to_out[0],
        feed_forward.net[0].proj,
        feed_forward.net[2],
    )


def text_layers(attention: Any, modulation: Linear, feed_forward: Any) -> Layers:
    """The layers of the text stream, as `image_layers` for those of the image."""
    return Layers(
        modulation,
        (attention.add_q_proj, attention.add_k_proj, attention.add_v_proj),
        attention.norm_added_q,
        attention.norm_added_k,
        attention.to_add_out,
        feed_forward.net[0].proj,
        feed_forward.net[2],
    )


class TwoStreams:
    """A block with two sets of layers.

    Args:
        attention: The attention module; its processor has the backend.
        layers: The layers of the first and the second part of the sequence.
        once: Values of this forward.
    """

    def __init__(self, attention: Any, layers: tuple[Layers, Layers], once: Once) -> None:
        self.attention, self.layers, self.once = attention, layers, once
        self.eps, self.heads = attention.norm_q.eps, attention.heads
        self.weights = NormWeights([part.query_norm for part in layers], [part.key_norm for part in layers])

    def fits(self) -> bool:
        """Whether the layers are those that a call computes: see `RebuiltBlock.fits`."""
        return all(part.fits() for part in self.layers)

    def joins(self) -> Sequence[Sequence[Linear]]:
        """Layers with one input: see `RebuiltBlock.joins`."""
        return [part.qkv for part in self.layers]

    def modulation_bytes(self) -> int:
        """Bytes of the modulation of one row: see `RebuiltBlock.modulation_bytes`."""
        return outputs(*(part.modulation for part in self.layers))

    def __call__(
        self,
        x: torch.Tensor,
        first: int,
        temb: torch.Tensor,
        positions: Positions,
        mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Compute the block.

        Args:
            x: [B, S, D]; it does not change.
            first: Rows of the first stream.
            temb: Embedding of the timestep, [B, D].
            positions: Rotary tables.
            mask: Attention mask of the whole sequence.

        Returns:
            A new sequence [B, S, D].
        """
        batch, length, _ = x.shape

        def both(*layers: tuple[Linear, ...]) -> list[Part]:
            return [Part(0, first, layers[0]), Part(first, length, layers[1])]

        a, b = self.layers
        vectors = modulation(self.once, self, temb, [a.modulation, b.modulation], 6)
        shift, scale, gate, shift_2, scale_2, gate_2 = vectors
        normed = rows.norm(x, scale, shift, first=first, format=products.format_of(*a.qkv, *b.qkv))
        qkv = products.through(normed, both(a.qkv, b.qkv)).view(batch, length, 3, self.heads, -1)
        norms = self.weights.on(x.device)
        turn = positions.cos, positions.sin
        rows.query_key_(qkv, norms.query, norms.key, *turn, eps=self.eps, first=first, start=positions.start)
        query, key, value = qkv.unbind(2)
        attended = attend(self.attention, query, key, value, mask, norms=norms)
        y = products.through(attended, both((a.out,), (b.out,)))
        format = products.format_of(a.up, b.up)
        x, normed = rows.add_norm(x, y, gate, scale_2, shift_2, first=first, format=format)
        y = products.feed_forward(normed, both((a.up,), (b.up,)), both((a.down,), (b.down,)))
        return rows.add(x, y, gate_2, first=first, in_place=True)


class JointBlock:
    """The forward of a block of a joint sequence, as far as families share it. Each family has its own `__call__`.

    Args:
        block: The block of diffusers.
        once: Values of this forward.
        streams: The layers of the block.
    """

    def __init__(self, block: Any, once: Once, streams: TwoStreams | OneStream) -> None:
        self.own, self.once, self.streams = block.forward, once, streams

    def fits(self) -> bool:
        """Whether the layers are those that a call computes: see `RebuiltBlock.fits`."""
        return self.streams.fits()

    def joins(self) -> Sequence[Sequence[Linear]]:
        """Layers with one input: see `RebuiltBlock.joins`."""
        return self.streams.joins()

    def modulation_bytes(self) -> int:
        """Bytes of the modulation of one row: see `RebuiltBlock.modulation_bytes`."""
        return self.streams.modulation_bytes()


class OneStream:
    """A block with one set of layers, whose last layer reads attention and feed-forward side by side.

    Args:
        attention: The attention module, with norms of queries and keys.
        modulation_layer: Makes shift, scale and gate.
        up: First layer of the feed-forward, before GELU by the tanh formula.
        out: Layer of [attention | feed-forward].
        once: Values of this forward.
    """

    def __init__(self, attention: Any, modulation_layer: Linear, up: Linear, out: Linear, once: Once) -> None:
        self.attention, self.modulation_layer, self.up, self.out = attention, modulation_layer, up, out
        self.eps, self.heads, self.once = attention.norm_q.eps, attention.heads, once
        self.qkv = (attention.to_q, attention.to_k, attention.to_v)
        self.weights = NormWeights([attention.norm_q], [attention.norm_k])

    def fits(self) -> bool:
        """Whether the layers are those that a call computes: see `RebuiltBlock.fits`."""
        layers = *self.qkv, self.up, self.out
        return products.plain(self.modulation_layer) and known(*layers) and rms_weight(self.attention.norm_q)

    def joins(self) -> Sequence[Sequence[Linear]]:
        """Layers with one input: see `RebuiltBlock.joins`."""
        return [self.qkv]

    def modulation_bytes(self) -> int:
        """Bytes of the modulation of one row: see `RebuiltBlock.modulation_bytes`."""
        return outputs(self.modulation_layer)

    def __call__(
        self, x: torch.Tensor, _: int, temb: torch.Tensor, positions: Positions, mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Compute the block; arguments and result as in `TwoStreams`. Both parts go through the same layers."""
        batch, length, _ = x.shape
        shift, scale, gate = modulation(self.once, self, temb, [self.modulation_layer], 3)
        normed = rows.norm(x, scale, shift, format=products.format_of(*self.qkv, self.up))
        qkv = products.linear(normed, *self.qkv).view(batch, length, 3, self.heads, -1)
        norms = self.weights.on(x.device)
        turn = positions.cos, positions.sin
        rows.query_key_(qkv, norms.query, norms.key, *turn, eps=self.eps, start=positions.start)
        query, key, value = qkv.unbind(2)
        attended = attend(self.attention, query, key, value, mask, norms=norms)
        y = products.beside_feed_forward(attended, normed, self.up, self.out)
        return rows.add(x, y, gate)
