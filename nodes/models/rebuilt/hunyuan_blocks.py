"""HunyuanVideo's blocks, rebuilt. Sequences are [image | text]; the text is not rotated."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import Linear

from .block_parts import Once, of_doubled, plain, rms_weight, together
from .flux_blocks import Streams
from .joint_blocks import Layers, OneStream, TwoStreams


def effective_mask(attention: Any, mask: torch.Tensor | None) -> torch.Tensor | None:
    """The mask that the attention's processor uses.

    The family exchanges processors for some that drop a mask which hides nothing (`Unmasked` of its module).
    """
    return None if getattr(attention.processor, "drops_mask", False) else mask


class HunyuanDouble:
    """The forward of a `HunyuanVideoTransformerBlock`."""

    def __init__(self, block: Any, once: Once) -> None:
        attention, self.own, self.once = block.attn, block.forward, once
        image = Layers(
            block.norm1.linear,
            (attention.to_q, attention.to_k, attention.to_v),
            attention.norm_q,
            attention.norm_k,
            attention.to_out[0],
            block.ff.net[0].proj,
            block.ff.net[2],
        )
        text = Layers(
            block.norm1_context.linear,
            (attention.add_q_proj, attention.add_k_proj, attention.add_v_proj),
            attention.norm_added_q,
            attention.norm_added_k,
            attention.to_add_out,
            block.ff_context.net[0].proj,
            block.ff_context.net[2],
        )
        self.layers = image, text
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
        attention_mask: torch.Tensor | None = None,
        freqs_cis: tuple[torch.Tensor, torch.Tensor] | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> Streams:
        if freqs_cis is None:
            made: Streams = self.own(
                hidden_states, encoder_hidden_states, temb, attention_mask, freqs_cis, *args, **kwargs
            )
            return made
        image = hidden_states.shape[1]
        x = together(hidden_states, encoder_hidden_states)
        mask = effective_mask(self.streams.attention, attention_mask)
        cos, sin = freqs_cis
        positions = self.once.of("positions", cos, lambda: of_doubled(cos, sin))
        x = self.streams(x, image, temb, positions, mask)
        return x[:, :image], x[:, image:]


class HunyuanSingle:
    """The forward of a `HunyuanVideoSingleTransformerBlock`."""

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
        attention_mask: torch.Tensor | None = None,
        image_rotary_emb: tuple[torch.Tensor, torch.Tensor] | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> Streams:
        if image_rotary_emb is None:
            made: Streams = self.own(
                hidden_states, encoder_hidden_states, temb, attention_mask, image_rotary_emb, *args, **kwargs
            )
            return made
        image = hidden_states.shape[1]
        x = together(hidden_states, encoder_hidden_states)
        mask = effective_mask(self.stream.attention, attention_mask)
        cos, sin = image_rotary_emb
        positions = self.once.of("positions", cos, lambda: of_doubled(cos, sin))
        x = self.stream(x, temb, positions, mask)
        return x[:, :image], x[:, image:]
