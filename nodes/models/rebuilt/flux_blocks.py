"""FLUX.1's blocks, rebuilt. Sequences are [text | image]."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import Linear

from .block_parts import Once, of_doubled, plain, rms_weight, together
from .joint_blocks import Layers, OneStream, TwoStreams

Streams = tuple[torch.Tensor, torch.Tensor]


class FluxDouble:
    """The forward of a `FluxTransformerBlock`."""

    def __init__(self, block: Any, once: Once) -> None:
        attention, self.own, self.once = block.attn, block.forward, once
        text = Layers(
            block.norm1_context.linear,
            (attention.add_q_proj, attention.add_k_proj, attention.add_v_proj),
            attention.norm_added_q,
            attention.norm_added_k,
            attention.to_add_out,
            block.ff_context.net[0].proj,
            block.ff_context.net[2],
        )
        image = Layers(
            block.norm1.linear,
            (attention.to_q, attention.to_k, attention.to_v),
            attention.norm_q,
            attention.norm_k,
            attention.to_out[0],
            block.ff.net[0].proj,
            block.ff.net[2],
        )
        self.layers = text, image
        self.streams = TwoStreams(attention, self.layers, once)

    def fits(self) -> bool:
        return all(plain(*part.linears()) and rms_weight(part.query_norm) for part in self.layers)

    def joins(self) -> Sequence[Sequence[Linear]]:
        return [part.qkv for part in self.layers]

    def __call__(
        self,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        temb: torch.Tensor,
        image_rotary_emb: tuple[torch.Tensor, torch.Tensor] | None = None,
        joint_attention_kwargs: dict[str, Any] | None = None,
    ) -> Streams:
        if image_rotary_emb is None or joint_attention_kwargs:
            made: Streams = self.own(
                hidden_states, encoder_hidden_states, temb, image_rotary_emb, joint_attention_kwargs
            )
            return made
        text = encoder_hidden_states.shape[1]
        cos, sin = image_rotary_emb
        positions = self.once.of("positions", cos, lambda: of_doubled(cos, sin))
        x = self.streams(together(encoder_hidden_states, hidden_states), text, temb, positions)
        return x[:, :text], x[:, text:]


class FluxSingle:
    """The forward of a `FluxSingleTransformerBlock`."""

    def __init__(self, block: Any, once: Once) -> None:
        self.own, self.once = block.forward, once
        self.stream = OneStream(block.attn, block.norm.linear, block.proj_mlp, block.proj_out, once)

    def fits(self) -> bool:
        stream = self.stream
        layers = stream.modulation_layer, *stream.qkv, stream.up, stream.out
        return plain(*layers) and rms_weight(stream.attention.norm_q)

    def joins(self) -> Sequence[Sequence[Linear]]:
        return [self.stream.qkv]

    def __call__(
        self,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        temb: torch.Tensor,
        image_rotary_emb: tuple[torch.Tensor, torch.Tensor] | None = None,
        joint_attention_kwargs: dict[str, Any] | None = None,
    ) -> Streams:
        if image_rotary_emb is None or joint_attention_kwargs:
            made: Streams = self.own(
                hidden_states, encoder_hidden_states, temb, image_rotary_emb, joint_attention_kwargs
            )
            return made
        text = encoder_hidden_states.shape[1]
        cos, sin = image_rotary_emb
        positions = self.once.of("positions", cos, lambda: of_doubled(cos, sin))
        x = self.stream(together(encoder_hidden_states, hidden_states), temb, positions)
        return x[:, :text], x[:, text:]
